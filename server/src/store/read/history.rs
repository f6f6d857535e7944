//! Every target that a device ever had, newest first.

use kernex_proto::ids::{DeploymentId, Digest, TargetId};
use sea_orm::{
    FromQueryResult,
    sea_query::{Expr, ExprTrait, Order, Query, TableRef},
};

use crate::{
    clock::Timestamp,
    domain::attempt::{FailureReason, State},
    store::{
        db::{
            error::Result,
            page::{Page, Paged},
            values::digest,
        },
        entity::{attempt, deployment, stored::Stored, target},
        read::{
            attempts::{reason, state},
            bundles::shown_bundle,
            devices::find_device,
            joined::{is_latest, read_rows},
            scope::View,
        },
    },
};

/// One target in a device's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub deployment: DeploymentId,
    /// "name:version".
    pub bundle: String,
    /// SHA-256 of the bundle.
    pub digest: Digest,
    /// Number of the latest attempt.
    pub attempt: u32,
    pub state: State,
    pub reason: Option<FailureReason>,
    /// What went wrong in words.
    pub message: String,
    /// When the target was made.
    pub created_at: Timestamp,
    /// When the latest attempt closed.
    pub closed_at: Option<Timestamp>,
    /// Version that the device ran after the attempt; empty when none, or not yet known.
    pub active_version: String,
    /// Digest of that version.
    pub active_digest: String,
    /// The deployment it took back.
    pub rolls_back: Option<DeploymentId>,
}

#[derive(FromQueryResult)]
struct Row {
    id: Stored<TargetId>,
    deployment_id: Stored<DeploymentId>,
    bundle_name: String,
    bundle_version: String,
    digest: String,
    number: i32,
    state: String,
    reason: Option<String>,
    message: String,
    created_at: i64,
    closed_at: Option<i64>,
    active_version: Option<String>,
    active_digest: Option<String>,
    rolls_back: Option<Stored<DeploymentId>>,
}

impl View {
    /// Every target the device was part of, newest first.
    pub async fn list_history(&self, id_or_name: &str, page: Page) -> Result<Paged<HistoryEntry>> {
        let device = find_device(self.reader(), self.scope, id_or_name).await?;
        let mut query = Query::select();
        for column in [
            target::Column::Id,
            target::Column::DeploymentId,
            target::Column::BundleName,
            target::Column::BundleVersion,
            target::Column::Digest,
            target::Column::CreatedAt,
        ] {
            query.column(("t", column));
        }
        for column in [
            attempt::Column::Number,
            attempt::Column::State,
            attempt::Column::Reason,
            attempt::Column::Message,
            attempt::Column::ClosedAt,
            attempt::Column::ActiveVersion,
            attempt::Column::ActiveDigest,
        ] {
            query.column(("a", column));
        }
        query.column(("p", deployment::Column::RollsBack));
        query
            .from_as(target::Entity, "t")
            .inner_join(TableRef::from(attempt::Entity).alias("a"), is_latest())
            .inner_join(
                TableRef::from(deployment::Entity).alias("p"),
                Expr::col(("p", deployment::Column::Id))
                    .equals(("t", target::Column::DeploymentId)),
            )
            .and_where(Expr::col(("t", target::Column::DeviceId)).eq(device.id))
            .order_by(("t", target::Column::Id), Order::Desc)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_id("history")? {
            query.and_where(Expr::col(("t", target::Column::Id)).lt(after));
        }
        let rows: Vec<Row> = read_rows(self.reader(), &query).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "history", |row| row.id.bytes());
        let next = paged.next;
        let items = paged.items.into_iter().map(entry).collect::<Result<_>>()?;
        Ok(Paged { items, next })
    }
}

fn entry(row: Row) -> Result<HistoryEntry> {
    Ok(HistoryEntry {
        deployment: row.deployment_id.0,
        bundle: shown_bundle(row.bundle_name, &row.bundle_version),
        digest: digest(&row.digest)?,
        attempt: u32::try_from(row.number).unwrap_or(0),
        state: state(&row.state)?,
        reason: reason(row.reason.as_deref())?,
        message: row.message,
        created_at: Timestamp(row.created_at),
        closed_at: row.closed_at.map(Timestamp),
        active_version: row.active_version.unwrap_or_default(),
        active_digest: row.active_digest.unwrap_or_default(),
        rolls_back: row.rolls_back.map(|id| id.0),
    })
}
