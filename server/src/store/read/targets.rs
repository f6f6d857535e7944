//! Questions about the targets of a deployment, as their latest attempts stand.

use kernex_proto::ids::DeploymentId;
use sea_orm::{
    ConnectionTrait,
    sea_query::{Expr, ExprTrait, Func, Order},
};

use crate::{
    clock::Timestamp,
    domain::attempt::State,
    store::{
        db::{
            error::{Result, not_found},
            page::{Page, Paged},
            values::unsigned,
        },
        entity::{attempt, deployment, stored::Stored, target},
        read::{
            attempts::state,
            deployments::deployment_row,
            devices::find_device,
            joined::read_rows,
            scope::View,
            start_times::StartTimes,
            target_filter::TargetFilter,
            target_rows::{Row, Target, every_target, of_deployment, target_from},
            waiting::WaitingTarget,
        },
    },
};

/// Most targets in one page, because each may carry 64 KiB of output.
const MAX_TARGETS: u64 = 200;

/// With more targets than this, nobody looks what they wait for.
const MOST_WAITING: usize = 1000;

/// Most output in one page, in bytes; the next page has the rest.
const MAX_OUTPUT: usize = 2 * 1024 * 1024;

impl View {
    /// Targets of one deployment that a filter takes. A page may be shorter than asked for: their
    /// output is limited too.
    pub async fn list_targets(
        &self,
        id: DeploymentId,
        filter: &TargetFilter,
        page: Page,
    ) -> Result<Paged<Target>> {
        let deployment = deployment_row(self.reader(), self.scope, id).await?;
        let start_times = self.start_times(&deployment).await?;
        let limit = Ord::min(page.limit(), MAX_TARGETS);
        let mut query = of_deployment(Stored(id), None);
        filter.narrow(&mut query);
        query
            .order_by(("t", target::Column::Id), Order::Asc)
            .limit(limit + 1);
        if let Some(after) = page.after_id("targets")? {
            query.and_where(Expr::col(("t", target::Column::Id)).gt(after));
        }
        let rows: Vec<Row> = read_rows(self.reader(), &query).await?;
        let mut output = 0;
        let fitting = rows
            .iter()
            .take_while(|row| {
                output += row.output_tail.len();
                output += row.late_output_tail.as_ref().map_or(0, String::len);
                output <= MAX_OUTPUT
            })
            .count();
        let limit = Ord::min(limit, Ord::max(fitting, 1) as u64);
        let paged = Paged::from_surplus(rows, limit, "targets", |row| row.id.bytes());
        let mut rows = paged.items;
        rows.retain(|row| filter.takes_name(&row.device_name));
        Ok(Paged {
            items: self
                .targets_from(&deployment, rows, start_times.as_ref())
                .await?,
            next: paged.next,
        })
    }

    /// The target of a device, by its id or name, in this deployment. Without a deployment, the
    /// newest target that the device has begun. All of its output is there.
    pub async fn get_target(&self, device: &str, of: Option<DeploymentId>) -> Result<Target> {
        let missing = || not_found("target of the device", device);
        let device = find_device(self.reader(), self.scope, device).await?;
        let mut query = every_target(None);
        query
            .and_where(Expr::col(("t", target::Column::DeviceId)).eq(device.id))
            .order_by(("t", target::Column::Id), Order::Desc)
            .limit(1);
        match of {
            Some(deployment) => {
                query.and_where(Expr::col(("t", target::Column::DeploymentId)).eq(deployment.0))
            }
            None => query.and_where(Expr::col(("a", attempt::Column::AcceptedAt)).is_not_null()),
        };
        let rows: Vec<Row> = read_rows(self.reader(), &query).await?;
        let id = rows.first().ok_or_else(missing)?.deployment_id.0;
        let deployment = deployment_row(self.reader(), self.scope, id).await?;
        let start_times = self.start_times(&deployment).await?;
        let targets = self
            .targets_from(&deployment, rows, start_times.as_ref())
            .await?;
        targets.into_iter().next().ok_or_else(missing)
    }

    /// How many targets of one deployment a filter takes.
    pub async fn count_targets(&self, id: DeploymentId, filter: &TargetFilter) -> Result<u64> {
        deployment_row(self.reader(), self.scope, id).await?;
        let mut query = of_deployment(Stored(id), None);
        filter.narrow(&mut query);
        query.clear_selects();
        if filter.is_exact() {
            query.expr_as(Func::count(Expr::col(("t", target::Column::Id))), "n");
            let row = self.reader().query_one(&query).await?;
            return Ok(unsigned(
                row.map_or(Ok(0), |row| row.try_get::<i64>("", "n"))?,
            ));
        }
        query.column(("t", target::Column::DeviceName));
        let rows = self.reader().query_all(&query).await?;
        let mut count = 0;
        for row in rows {
            let name: String = row.try_get("", "device_name")?;
            count += u64::from(filter.takes_name(&name));
        }
        Ok(count)
    }

    /// Targets whose latest attempt changed at or after an instant, oldest change first, with the
    /// end of their output; pass the newest `updated_at` seen so far.
    pub async fn changed_targets(&self, id: DeploymentId, since: Timestamp) -> Result<Vec<Target>> {
        let mut query = of_deployment(Stored(id), Some(self.reader().get_database_backend()));
        query
            .and_where(Expr::col(("a", attempt::Column::UpdatedAt)).gte(since.0))
            .order_by(("a", attempt::Column::UpdatedAt), Order::Asc)
            .order_by(("t", target::Column::Id), Order::Asc);
        let rows: Vec<Row> = read_rows(self.reader(), &query).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let deployment = deployment_row(self.reader(), self.scope, id).await?;
        let start_times = self.start_times(&deployment).await?;
        self.targets_from(&deployment, rows, start_times.as_ref())
            .await
    }

    /// Targets from rows, with what they wait for.
    async fn targets_from(
        &self,
        deployment: &deployment::Model,
        rows: Vec<Row>,
        start_times: Option<&StartTimes>,
    ) -> Result<Vec<Target>> {
        let mut targets = Vec::with_capacity(rows.len());
        let mut waiting = Vec::new();
        for row in rows {
            let state = state(&row.state)?;
            let opens_at = start_times.and_then(|times| times.of(&row, state));
            if matches!(state, State::Held | State::Pending | State::Sent) {
                waiting.push(WaitingTarget {
                    target: row.id,
                    number: row.number,
                    device: row.device_id,
                    phase: row.phase,
                    state,
                    waits_for_time: opens_at.is_some(),
                });
            }
            targets.push(Target {
                opens_at,
                ..target_from(row)?
            });
        }
        // So many wait only just after they were opened, and are about to change.
        if waiting.len() > MOST_WAITING || deployment.finished_at.is_some() {
            return Ok(targets);
        }
        let mut found = self.store.waiting(deployment, &waiting).await?;
        for target in &mut targets {
            target.waiting = found.remove(&Stored(target.id));
        }
        Ok(targets)
    }
}
