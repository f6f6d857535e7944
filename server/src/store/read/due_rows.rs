//! The unresolved attempts of some devices, with everything a command says about them.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    FromQueryResult,
    sea_query::{Expr, ExprTrait, IntoColumnRef, Order, Query, SelectStatement, TableRef},
};

use crate::store::{
    db::sizes::padded,
    entity::{
        attempt, bundle, deployment, device, run, schedule,
        stored::{BundleId, Stored},
        target,
    },
};

/// An unresolved attempt with everything a command says about it.
#[derive(FromQueryResult)]
pub(crate) struct DueRow {
    pub(crate) target_id: Stored<TargetId>,
    pub(crate) number: i32,
    pub(crate) device_id: Stored<DeviceId>,
    pub(crate) state: String,
    pub(crate) sent_epoch: i64,
    pub(crate) stop_requested: bool,
    pub(crate) stop_going_back: bool,
    pub(crate) stop_sent_epoch: i64,
    pub(crate) updated_at: i64,
    pub(crate) delivery_deadline: i64,
    pub(crate) execution_us: i64,
    pub(crate) execution_deadline: Option<i64>,
    pub(crate) deployment_id: Stored<DeploymentId>,
    pub(crate) deployment_state: String,
    pub(crate) traceparent: String,
    pub(crate) rolls_back: Option<Stored<DeploymentId>>,
    pub(crate) bundle_name: String,
    pub(crate) bundle_version: String,
    pub(crate) digest: String,
    pub(crate) bundle_id: Option<Stored<BundleId>>,
    pub(crate) size: Option<i64>,
    pub(crate) format: Option<String>,
    pub(crate) run: Option<i32>,
    pub(crate) run_due_at: Option<i64>,
    pub(crate) delivery_us: i64,
    pub(crate) start_at: Option<i64>,
    pub(crate) windows: Option<String>,
    pub(crate) spread_us: Option<i64>,
}

/// The unresolved attempts of some devices, those that come first in front.
pub(crate) fn queue(devices: &[Stored<DeviceId>]) -> SelectStatement {
    let mut query = Query::select();
    for column in [
        attempt::Column::TargetId,
        attempt::Column::Number,
        attempt::Column::DeviceId,
        attempt::Column::State,
        attempt::Column::SentEpoch,
        attempt::Column::StopRequested,
        attempt::Column::StopGoingBack,
        attempt::Column::StopSentEpoch,
        attempt::Column::UpdatedAt,
        attempt::Column::DeliveryDeadline,
        attempt::Column::ExecutionUs,
        attempt::Column::ExecutionDeadline,
        attempt::Column::DeploymentId,
        attempt::Column::BundleName,
    ] {
        query.column(("a", column));
    }
    query
        .expr_as(
            Expr::col(("p", deployment::Column::State)),
            "deployment_state",
        )
        .columns([
            ("p", deployment::Column::Traceparent),
            ("p", deployment::Column::DeliveryUs),
            ("p", deployment::Column::RollsBack),
        ])
        .columns([
            ("s", schedule::Column::StartAt),
            ("s", schedule::Column::Windows),
            ("s", schedule::Column::SpreadUs),
        ])
        .columns([
            ("t", target::Column::BundleVersion),
            ("t", target::Column::Digest),
        ])
        .expr_as(Expr::col(("b", bundle::Column::Id)), "bundle_id")
        .columns([("b", bundle::Column::Size), ("b", bundle::Column::Format)])
        .column(("r", run::Column::Run))
        .expr_as(Expr::col(("r", run::Column::DueAt)), "run_due_at")
        .from_as(attempt::Entity, "a")
        .inner_join(
            TableRef::from(target::Entity).alias("t"),
            on(("t", target::Column::Id), ("a", attempt::Column::TargetId)),
        )
        .inner_join(
            TableRef::from(deployment::Entity).alias("p"),
            on(
                ("p", deployment::Column::Id),
                ("a", attempt::Column::DeploymentId),
            ),
        )
        .inner_join(
            TableRef::from(device::Entity).alias("d"),
            on(("d", device::Column::Id), ("a", attempt::Column::DeviceId)),
        )
        .left_join(
            TableRef::from(bundle::Entity).alias("b"),
            on(
                ("b", bundle::Column::Name),
                ("t", target::Column::BundleName),
            )
            .and(on(
                ("b", bundle::Column::Version),
                ("t", target::Column::BundleVersion),
            )),
        )
        .left_join(
            TableRef::from(schedule::Entity).alias("s"),
            on(
                ("s", schedule::Column::DeploymentId),
                ("a", attempt::Column::DeploymentId),
            ),
        )
        .left_join(
            TableRef::from(run::Entity).alias("r"),
            on(
                ("r", run::Column::TargetId),
                ("a", attempt::Column::TargetId),
            )
            .and(on(
                ("r", run::Column::Number),
                ("a", attempt::Column::Number),
            )),
        )
        .and_where(Expr::col(("a", attempt::Column::Unresolved)))
        .and_where(Expr::col(("d", device::Column::Conflicted)).not())
        .and_where(
            Expr::col(("a", attempt::Column::DeviceId)).is_in(padded(devices.iter().copied())),
        )
        .order_by(("a", attempt::Column::DeviceId), Order::Asc)
        .order_by(("a", attempt::Column::BundleName), Order::Asc)
        .order_by(("a", attempt::Column::Generation), Order::Asc)
        .order_by(("a", attempt::Column::Number), Order::Asc);
    query
}

fn on(left: impl IntoColumnRef, right: impl IntoColumnRef) -> Expr {
    Expr::col(left).equals(right)
}
