//! Targets of a deployment, as their latest attempts stand.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ConnectionTrait, DbBackend, FromQueryResult,
    sea_query::{Expr, ExprTrait, Func, Order, Query, SelectStatement, TableRef},
};

use crate::{
    clock::Timestamp,
    domain::{
        attempt::{FailureReason, OutputMark, State, Step},
        rollout::DeploymentState,
        schedule::{Schedule, Share},
    },
    store::{
        db::{
            error::{Result, not_found},
            page::{Page, Paged},
            raw::end_of,
            values::unsigned,
        },
        entity::{attempt, deployment, run, stored::Stored, target},
        read::{
            attempts::{is_latest, reason, state, step},
            deployments::deployment_row,
            devices::find_device,
            output::marks_from,
            schedules,
            scope::View,
            target_filter::TargetFilter,
            waiting::{Waiting, WaitingTarget},
        },
    },
};

/// One device within one deployment, as its latest attempt stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: TargetId,
    pub deployment: DeploymentId,
    pub device: DeviceId,
    /// The device's name when the target was made.
    pub device_name: String,
    /// "name:version".
    pub bundle: String,
    /// Number of the latest attempt.
    pub attempt: u32,
    pub state: State,
    /// What it is doing, while running.
    pub progress: Option<StepProgress>,
    /// Why it failed.
    pub reason: Option<FailureReason>,
    /// What went wrong in words.
    pub message: String,
    /// Exit code of the script.
    pub exit_code: Option<i32>,
    /// Tail of the script's output.
    pub output_tail: String,
    /// Of which step and stream its parts are; none when that is not known.
    pub output_marks: Vec<OutputMark>,
    /// A stop was asked for and not answered yet.
    pub stop_requested: bool,
    /// When the latest attempt last changed.
    pub updated_at: Timestamp,
    /// Number of its phase, from 1; 0 without phases.
    pub phase: u32,
    /// Digest of what the device ran once it was over; empty when nothing, or not yet known.
    pub active_digest: String,
    /// Its version.
    pub active_version: String,
    /// When it may begin, while only time holds it back.
    pub opens_at: Option<Timestamp>,
    /// What it waits for; none once its device has begun, and where that was not looked at.
    pub waiting: Option<Waiting>,
    /// The outcome that arrived after the attempt was closed, if it says something new.
    pub late: Option<LateOutcome>,
    /// What it waits for whose `hooks.pre` asked for time.
    pub deferral: Option<TargetDeferral>,
}

/// An outcome that arrived after its attempt was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateOutcome {
    pub state: State,
    /// Why it failed.
    pub reason: Option<FailureReason>,
    /// What went wrong in words.
    pub message: String,
    /// Exit code of the script.
    pub exit_code: Option<i32>,
    /// Tail of the script's output.
    pub output_tail: String,
    pub at: Option<Timestamp>,
}

/// What a target waits for whose `hooks.pre` asked for time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDeferral {
    /// What the hook said.
    pub message: String,
    /// When it may run again.
    pub until: Timestamp,
    /// Number of that run.
    pub run: u32,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepProgress {
    pub step: Step,
    pub bytes_done: u64,
    /// Bytes in all, 0 when unknown.
    pub bytes_total: u64,
    /// A stop was carried out; how the attempt ended is yet to come.
    pub stopped: bool,
}

/// Most targets in one page, because each may carry 64 KiB of output.
const MAX_TARGETS: u64 = 200;

/// Most targets that are looked at for what they wait for.
const MOST_WAITING: usize = 1000;

/// Most output in one page, in bytes; the next page has the rest.
const MAX_OUTPUT: usize = 2 * 1024 * 1024;

/// Characters of output that go with a change. A page of targets has all of it.
const CHANGE_OUTPUT: i32 = 4096;

#[derive(FromQueryResult)]
struct Row {
    id: Stored<TargetId>,
    deployment_id: Stored<DeploymentId>,
    device_id: Stored<DeviceId>,
    device_name: String,
    bundle_name: String,
    bundle_version: String,
    phase: i32,
    number: i32,
    state: String,
    reason: Option<String>,
    message: String,
    step: Option<String>,
    bytes_done: i64,
    bytes_total: i64,
    exit_code: Option<i32>,
    output_tail: String,
    output_marks: String,
    stop_requested: bool,
    stopped: bool,
    late_state: Option<String>,
    late_reason: Option<String>,
    late_message: Option<String>,
    late_exit_code: Option<i32>,
    late_output_tail: Option<String>,
    late_at: Option<i64>,
    updated_at: i64,
    active_digest: Option<String>,
    active_version: Option<String>,
    delivery_deadline: i64,
    run: Option<i32>,
    run_due_at: Option<i64>,
    run_message: Option<String>,
}

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
        let mut query = select(Stored(id), None);
        filter.narrow(&mut query);
        query
            .order_by(("t", target::Column::Id), Order::Asc)
            .limit(limit + 1);
        if let Some(after) = page.after_id("targets")? {
            query.and_where(Expr::col(("t", target::Column::Id)).gt(after));
        }
        let rows = self.read(&query).await?;
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

    /// The target of a device, by its id or name, in this deployment; without one the newest that
    /// it has begun. With all of its output.
    pub async fn get_target(&self, device: &str, of: Option<DeploymentId>) -> Result<Target> {
        let missing = || not_found("target of the device", device);
        let device = find_device(self.reader(), self.scope, device).await?;
        let mut query = select_all(None);
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
        let rows = self.read(&query).await?;
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
        let mut query = select(Stored(id), None);
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
        let mut query = select(Stored(id), Some(self.reader().get_database_backend()));
        query
            .and_where(Expr::col(("a", attempt::Column::UpdatedAt)).gte(since.0))
            .order_by(("a", attempt::Column::UpdatedAt), Order::Asc)
            .order_by(("t", target::Column::Id), Order::Asc);
        let rows = self.read(&query).await?;
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
            let may_wait = WaitingTarget {
                target: row.id,
                number: row.number,
                device: row.device_id,
                phase: row.phase,
                state: state(&row.state)?,
                waits_for_time: false,
            };
            let target = target_from(row, start_times)?;
            if matches!(target.state, State::Held | State::Pending | State::Sent) {
                waiting.push(WaitingTarget {
                    waits_for_time: target.opens_at.is_some(),
                    ..may_wait
                });
            }
            targets.push(target);
        }
        // A whole fleet that has just been opened is about to change anyway.
        if waiting.len() > MOST_WAITING || deployment.finished_at.is_some() {
            return Ok(targets);
        }
        let mut found = self.store.waiting(deployment, &waiting).await?;
        for target in &mut targets {
            target.waiting = found.remove(&Stored(target.id));
        }
        Ok(targets)
    }

    /// When targets of this deployment may start; none when time does not hold them back, or when
    /// the clock is not trusted.
    async fn start_times(&self, row: &deployment::Model) -> Result<Option<StartTimes>> {
        let (Some(now), None) = (self.store.time(), row.finished_at) else {
            return Ok(None);
        };
        let Some(terms) = schedules::find(self.reader(), row.id.0).await? else {
            return Ok(None);
        };
        let schedule = schedules::from_row(&terms)?.schedule;
        Ok((!schedule.is_at_once()).then(|| StartTimes {
            schedule,
            waits: row.state == DeploymentState::Scheduled.as_str(),
            delivery_us: row.delivery_us,
            now,
        }))
    }

    async fn read(&self, query: &SelectStatement) -> Result<Vec<Row>> {
        let rows = self.reader().query_all(query).await?;
        Ok(rows
            .iter()
            .map(|row| Row::from_query_result(row, ""))
            .collect::<Result<_, _>>()?)
    }
}

/// Targets of a deployment with their latest attempts.
fn select(deployment: Stored<DeploymentId>, cut_on: Option<DbBackend>) -> SelectStatement {
    let mut query = select_all(cut_on);
    query.and_where(Expr::col(("t", target::Column::DeploymentId)).eq(deployment));
    query
}

/// Targets with their latest attempts. The output is whole, or cut in the database where the whole
/// fleet is read.
fn select_all(cut_on: Option<DbBackend>) -> SelectStatement {
    let mut query = Query::select();
    for column in [
        target::Column::Id,
        target::Column::DeploymentId,
        target::Column::DeviceId,
        target::Column::DeviceName,
        target::Column::BundleName,
        target::Column::BundleVersion,
        target::Column::Phase,
    ] {
        query.column(("t", column));
    }
    for column in [
        attempt::Column::Number,
        attempt::Column::State,
        attempt::Column::Reason,
        attempt::Column::Message,
        attempt::Column::Step,
        attempt::Column::BytesDone,
        attempt::Column::BytesTotal,
        attempt::Column::ExitCode,
        attempt::Column::StopRequested,
        attempt::Column::Stopped,
        attempt::Column::LateState,
        attempt::Column::LateReason,
        attempt::Column::LateMessage,
        attempt::Column::LateExitCode,
        attempt::Column::LateAt,
        attempt::Column::UpdatedAt,
        attempt::Column::ActiveDigest,
        attempt::Column::ActiveVersion,
        attempt::Column::DeliveryDeadline,
    ] {
        query.column(("a", column));
    }
    for (column, name) in [
        (attempt::Column::OutputTail, "output_tail"),
        (attempt::Column::LateOutputTail, "late_output_tail"),
    ] {
        let output = Expr::col(("a", column));
        let output: Expr = match cut_on {
            None => output,
            Some(database) => end_of(output, CHANGE_OUTPUT, database),
        };
        query.expr_as(output, name);
    }
    // Marks are about the whole.
    let marks: Expr = match cut_on {
        None => Expr::col(("a", attempt::Column::OutputMarks)),
        Some(_) => Expr::value(""),
    };
    query
        .expr_as(marks, "output_marks")
        .column(("r", run::Column::Run))
        .expr_as(Expr::col(("r", run::Column::DueAt)), "run_due_at")
        .expr_as(Expr::col(("r", run::Column::Message)), "run_message")
        .from_as(target::Entity, "t")
        .inner_join(TableRef::from(attempt::Entity).alias("a"), is_latest())
        .left_join(
            TableRef::from(run::Entity).alias("r"),
            Expr::col(("r", run::Column::TargetId))
                .equals(("a", attempt::Column::TargetId))
                .and(Expr::col(("r", run::Column::Number)).equals(("a", attempt::Column::Number))),
        );
    query
}

/// When the targets of one deployment begin.
struct StartTimes {
    schedule: Schedule,
    /// The deployment itself waits for its start.
    waits: bool,
    delivery_us: i64,
    now: Timestamp,
}

impl StartTimes {
    /// When this target may start, as far as time decides it.
    fn of(&self, row: &Row, state: State) -> Option<Timestamp> {
        let released = match state {
            // Its time for delivery began when it was opened.
            State::Pending => Timestamp(row.delivery_deadline.saturating_sub(self.delivery_us)),
            // The first phase opens with the start. When later phases open is not known.
            State::Held if self.waits && row.phase == 1 => self.now,
            _ => return None,
        };
        let share = Share::new(row.deployment_id.0, row.device_id.0);
        let at = self.schedule.begins_at(released, share, self.now);
        at.filter(|at| *at > self.now)
    }
}

fn target_from(row: Row, start_times: Option<&StartTimes>) -> Result<Target> {
    let state = state(&row.state)?;
    let opens_at = start_times.and_then(|start_times| start_times.of(&row, state));
    let progress = step(row.step.as_deref())?
        .filter(|_| state == State::Running)
        .map(|step| StepProgress {
            step,
            bytes_done: unsigned(row.bytes_done),
            bytes_total: unsigned(row.bytes_total),
            stopped: row.stopped,
        });
    let is_at_work = matches!(state, State::Accepted | State::Running);
    let due = row.run_due_at.filter(|_| is_at_work && !row.stop_requested);
    let deferral = due.map(|due| TargetDeferral {
        message: row.run_message.unwrap_or_default(),
        until: Timestamp(due),
        run: row.run.and_then(|run| u32::try_from(run).ok()).unwrap_or(0),
    });
    // An agent that answers a stop which came too late says nothing new.
    let late_state = row
        .late_state
        .filter(|late| late != State::Cancelled.as_str());
    let late = match late_state {
        None => None,
        Some(text) => Some(LateOutcome {
            state: self::state(&text)?,
            reason: self::reason(row.late_reason.as_deref())?,
            message: row.late_message.unwrap_or_default(),
            exit_code: row.late_exit_code,
            output_tail: row.late_output_tail.unwrap_or_default(),
            at: row.late_at.map(Timestamp),
        }),
    };
    Ok(Target {
        id: row.id.0,
        deployment: row.deployment_id.0,
        device: row.device_id.0,
        device_name: row.device_name,
        bundle: format!("{}:{}", row.bundle_name, row.bundle_version),
        attempt: u32::try_from(row.number).unwrap_or(0),
        state,
        progress,
        reason: reason(row.reason.as_deref())?,
        message: row.message,
        exit_code: row.exit_code,
        output_tail: row.output_tail,
        output_marks: marks_from(&row.output_marks),
        stop_requested: row.stop_requested,
        updated_at: Timestamp(row.updated_at),
        phase: u32::try_from(row.phase).unwrap_or(0),
        active_digest: row.active_digest.unwrap_or_default(),
        active_version: row.active_version.unwrap_or_default(),
        opens_at,
        waiting: None,
        late,
        deferral,
    })
}
