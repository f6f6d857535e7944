//! The unresolved attempts of some devices, with everything a command says about them.

use sea_orm::{
    FromQueryResult,
    sea_query::{Expr, ExprTrait, Order, Query, SelectStatement, TableRef},
};
use uuid::Uuid;

use crate::store::db::sizes::padded;

/// An unresolved attempt with everything a command says about it.
#[derive(FromQueryResult)]
pub(crate) struct Row {
    pub(crate) target_id: Uuid,
    pub(crate) number: i32,
    pub(crate) device_id: Uuid,
    pub(crate) state: String,
    pub(crate) sent_epoch: i64,
    pub(crate) stop_requested: bool,
    pub(crate) stop_going_back: bool,
    pub(crate) stop_sent_epoch: i64,
    pub(crate) updated_at: i64,
    pub(crate) delivery_deadline: i64,
    pub(crate) execution_us: i64,
    pub(crate) deployment_id: Uuid,
    pub(crate) deployment_state: String,
    pub(crate) traceparent: String,
    pub(crate) rolls_back: Option<Uuid>,
    pub(crate) bundle_name: String,
    pub(crate) bundle_version: String,
    pub(crate) digest: String,
    pub(crate) bundle_id: Option<Uuid>,
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
pub(crate) fn queue(devices: &[Uuid]) -> SelectStatement {
    let mut query = Query::select();
    for column in [
        "target_id",
        "number",
        "device_id",
        "state",
        "sent_epoch",
        "stop_requested",
        "stop_going_back",
        "stop_sent_epoch",
        "updated_at",
        "delivery_deadline",
        "execution_us",
        "deployment_id",
        "bundle_name",
    ] {
        query.column(("a", column));
    }
    let on = |left: (&'static str, &'static str), right: (&'static str, &'static str)| {
        Expr::col(left).equals(right)
    };
    query
        .expr_as(Expr::col(("p", "state")), "deployment_state")
        .columns([
            ("p", "traceparent"),
            ("p", "delivery_us"),
            ("p", "rolls_back"),
        ])
        .columns([("s", "start_at"), ("s", "windows"), ("s", "spread_us")])
        .columns([("t", "bundle_version"), ("t", "digest")])
        .expr_as(Expr::col(("b", "id")), "bundle_id")
        .columns([("b", "size"), ("b", "format")])
        .column(("r", "run"))
        .expr_as(Expr::col(("r", "due_at")), "run_due_at")
        .from_as("attempts", "a")
        .inner_join(
            TableRef::from("targets").alias("t"),
            on(("t", "id"), ("a", "target_id")),
        )
        .inner_join(
            TableRef::from("deployments").alias("p"),
            on(("p", "id"), ("a", "deployment_id")),
        )
        .inner_join(
            TableRef::from("devices").alias("d"),
            on(("d", "id"), ("a", "device_id")),
        )
        .left_join(
            TableRef::from("bundles").alias("b"),
            on(("b", "name"), ("t", "bundle_name"))
                .and(on(("b", "version"), ("t", "bundle_version"))),
        )
        .left_join(
            TableRef::from("schedules").alias("s"),
            on(("s", "deployment_id"), ("a", "deployment_id")),
        )
        .left_join(
            TableRef::from("runs").alias("r"),
            on(("r", "target_id"), ("a", "target_id")).and(on(("r", "number"), ("a", "number"))),
        )
        .and_where(Expr::col(("a", "unresolved")))
        .and_where(Expr::col(("d", "conflicted")).not())
        .and_where(Expr::col(("a", "device_id")).is_in(padded(devices.iter().copied())))
        .order_by(("a", "device_id"), Order::Asc)
        .order_by(("a", "bundle_name"), Order::Asc)
        .order_by(("a", "generation"), Order::Asc)
        .order_by(("a", "number"), Order::Asc);
    query
}
