//! Counts of targets and of deployments by their state.

use std::collections::BTreeMap;

use kernex_proto::ids::DeploymentId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, ExprTrait, FromQueryResult, QuerySelect,
    sea_query::{Expr, Func, Query, TableRef},
};

use crate::{
    domain::{
        attempt::FailureReason,
        rollout::{Counts, DeploymentState},
    },
    store::{
        db::{error::Result, values::parse_name},
        entity::{attempt, deployment, stored::Stored, target},
        read::{
            attempts::state,
            joined::{is_latest, read_rows},
            scope::View,
        },
    },
};

/// Counts of targets by the number of their phase.
pub(crate) type PhaseCounts = BTreeMap<i32, Counts>;

/// Counts of the targets of deployments, phase by phase.
pub(crate) async fn counts_by_phase<C: ConnectionTrait>(
    db: &C,
    deployments: &[Stored<DeploymentId>],
) -> Result<BTreeMap<Stored<DeploymentId>, PhaseCounts>> {
    #[derive(FromQueryResult)]
    struct Row {
        deployment_id: Stored<DeploymentId>,
        phase: i32,
        state: String,
        reason: Option<String>,
        n: i64,
    }
    let query = Query::select()
        .column(("a", attempt::Column::DeploymentId))
        .column(("t", target::Column::Phase))
        .columns([
            ("a", attempt::Column::State),
            ("a", attempt::Column::Reason),
        ])
        .expr_as(Func::count(Expr::col(("a", attempt::Column::Number))), "n")
        .from_as(attempt::Entity, "a")
        .inner_join(TableRef::from(target::Entity).alias("t"), is_latest())
        .and_where(
            Expr::col(("a", attempt::Column::DeploymentId)).is_in(deployments.iter().copied()),
        )
        .group_by_col(("a", attempt::Column::DeploymentId))
        .group_by_col(("t", target::Column::Phase))
        .group_by_columns([
            ("a", attempt::Column::State),
            ("a", attempt::Column::Reason),
        ])
        .to_owned();
    let mut counts = BTreeMap::<Stored<DeploymentId>, PhaseCounts>::new();
    for row in read_rows::<Row, _>(db, &query).await? {
        let state = state(&row.state)?;
        let n = u32::try_from(row.n).unwrap_or(u32::MAX);
        let phases = counts.entry(row.deployment_id).or_default();
        let phase = phases.entry(row.phase).or_default();
        if row.reason.as_deref() == Some(FailureReason::Penalised.as_str()) {
            phase.penalised += n;
        } else {
            phase.add(state, n);
        }
    }
    Ok(counts)
}

impl View {
    /// How many deployments are in each state.
    pub async fn deployment_counts(&self) -> Result<Vec<(DeploymentState, usize)>> {
        #[derive(FromQueryResult)]
        struct Row {
            state: String,
            n: i64,
        }
        let rows: Vec<Row> = self
            .rows::<deployment::Entity>()
            .select_only()
            .column(deployment::Column::State)
            .column_as(deployment::Column::Id.count(), "n")
            .group_by(deployment::Column::State)
            .into_model()
            .all(self.reader())
            .await?;
        let mut counts = DeploymentState::ALL
            .iter()
            .map(|state| (*state, 0))
            .collect::<Vec<_>>();
        for row in rows {
            let state = parse_name("state", &row.state, DeploymentState::parse)?;
            for (of, n) in &mut counts {
                if *of == state {
                    *n = usize::try_from(row.n).unwrap_or(usize::MAX);
                }
            }
        }
        Ok(counts)
    }
}

pub(crate) fn sum_of_phases(phases: &PhaseCounts) -> Counts {
    let mut all = Counts::default();
    for counts in phases.values() {
        all.merge(counts);
    }
    all
}
