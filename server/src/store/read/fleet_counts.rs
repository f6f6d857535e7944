//! Figures of the whole fleet for the server's metrics.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ExprTrait, FromQueryResult, PaginatorTrait, QueryFilter, QuerySelect, Select,
    sea_query::{Expr, Query},
};

use crate::{
    domain::device::DeviceStatus,
    metrics::TOKEN_ENDS,
    store::{
        db::{error::Result, values::unsigned},
        entity::{
            bundle, device, operator_token, session,
            stored::{ReplicaId, Stored},
        },
        read::scope::View,
    },
};

/// A token that ends within this counts as ending soon: a week, in microseconds.
const SOON: i64 = 7 * 24 * 3600 * 1_000_000;

#[derive(Debug, Default)]
pub struct FleetCounts {
    pub by_status: BTreeMap<DeviceStatus, usize>,
    /// By the version that the agent reports.
    pub by_version: Vec<(String, usize)>,
}

impl View {
    /// Every device once by its status and once by the version of its agent.
    pub async fn fleet_counts(&self) -> Result<FleetCounts> {
        #[derive(FromQueryResult)]
        struct Row {
            agent_version: String,
            conflicted: bool,
            n: i64,
        }
        let grouped = |only_online: Option<&[Stored<ReplicaId>]>| {
            let query = self
                .rows::<device::Entity>()
                .select_only()
                .column(device::Column::AgentVersion)
                .column(device::Column::Conflicted)
                .column_as(device::Column::Id.count(), "n")
                .group_by(device::Column::AgentVersion)
                .group_by(device::Column::Conflicted);
            let Some(replicas) = only_online else {
                return query;
            };
            let sessions = Query::select()
                .column(session::Column::DeviceId)
                .from(session::Entity)
                .and_where(Expr::col(session::Column::ConfirmedAt).is_not_null())
                .and_where(Expr::col(session::Column::Replica).is_in(replicas.iter().copied()))
                .to_owned();
            query.filter(device::Column::Id.in_subquery(sessions))
        };
        let replicas = self.store.live_replicas(self.reader()).await?;
        let read = async |query: Select<device::Entity>| {
            query.into_model::<Row>().all(self.reader()).await
        };
        let (all, online) = (
            read(grouped(None)).await?,
            read(grouped(Some(&replicas))).await?,
        );
        let mut counts = FleetCounts::default();
        let size = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        let online: usize = online
            .iter()
            .filter(|row| !row.conflicted)
            .map(|row| size(row.n))
            .sum();
        let mut by_version = BTreeMap::<String, usize>::new();
        let (mut in_all, mut conflicted) = (0, 0);
        for row in all {
            in_all += size(row.n);
            if row.conflicted {
                conflicted += size(row.n);
            }
            *by_version.entry(row.agent_version).or_default() += size(row.n);
        }
        // Those online were counted a moment later, so they may be more.
        let offline = in_all.saturating_sub(conflicted).saturating_sub(online);
        counts.by_status.insert(DeviceStatus::Offline, offline);
        counts.by_status.insert(DeviceStatus::Online, online);
        counts
            .by_status
            .insert(DeviceStatus::Conflicted, conflicted);
        counts.by_version = by_version.into_iter().collect();
        Ok(counts)
    }

    /// Operator tokens that work, by when they end, as in [`TOKEN_ENDS`].
    pub async fn token_counts(&self) -> Result<[(&'static str, usize); 2]> {
        let now = self.store.now().0;
        let working = self
            .rows::<operator_token::Entity>()
            .filter(operator_token::Column::RevokedAt.is_null())
            .filter(operator_token::Column::ExpiresAt.gt(now));
        let later = working
            .clone()
            .filter(operator_token::Column::ExpiresAt.gt(now.saturating_add(SOON)));
        let (all, later) = (
            working.count(self.reader()).await?,
            later.count(self.reader()).await?,
        );
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let [soon, far] = TOKEN_ENDS;
        Ok([(soon, size(all.saturating_sub(later))), (far, size(later))])
    }

    /// Bytes of all bundles together.
    pub async fn bundle_bytes(&self) -> Result<u64> {
        let sizes: Vec<i64> = self
            .rows::<bundle::Entity>()
            .select_only()
            .column(bundle::Column::Size)
            .into_tuple()
            .all(self.reader())
            .await?;
        Ok(sizes.into_iter().map(unsigned).sum())
    }
}
