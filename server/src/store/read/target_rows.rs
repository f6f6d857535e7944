//! A target with its latest attempt: the columns that are read, and what they mean.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    DbBackend, FromQueryResult,
    sea_query::{Expr, ExprTrait, Query, SelectStatement, TableRef},
};

use crate::{
    clock::Timestamp,
    domain::attempt::{FailureReason, OutputMark, State, Step},
    store::{
        db::{error::Result, raw::end_of, values::unsigned},
        entity::{attempt, run, stored::Stored, target},
        read::{
            attempts::{reason, state, step},
            bundles::shown_bundle,
            joined::is_latest,
            output::marks_from,
            waiting::Waiting,
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
    pub exit_code: Option<i32>,
    /// Tail of the script's output.
    pub output_tail: String,
    /// Which step and stream each part of it comes from; empty when that is not known.
    pub output_marks: Vec<OutputMark>,
    /// A stop was asked for and not answered yet.
    pub stop_requested: bool,
    /// When the latest attempt last changed.
    pub updated_at: Timestamp,
    /// Number of its phase, from 1; 0 without phases.
    pub phase: u32,
    /// Digest of what the device ran after the attempt; empty when nothing, or not yet known.
    pub active_digest: String,
    /// Version of that.
    pub active_version: String,
    /// When it may begin, while time alone holds it back.
    pub opens_at: Option<Timestamp>,
    /// What it waits for; none once its device has begun, and in long lists.
    pub waiting: Option<Waiting>,
    /// The outcome that arrived after the attempt was closed, if it says something new.
    pub late: Option<LateOutcome>,
    /// The delay that its `hooks.pre` asked for.
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
    pub exit_code: Option<i32>,
    /// Tail of the script's output.
    pub output_tail: String,
    pub at: Option<Timestamp>,
}

/// The delay that a target's `hooks.pre` asked for.
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
    /// A stop was carried out; the outcome is yet to come.
    pub stopped: bool,
}

/// Characters of output that go with a change. A page of targets has all of it.
const CHANGE_OUTPUT: i32 = 4096;

#[derive(FromQueryResult)]
pub(crate) struct Row {
    pub(crate) id: Stored<TargetId>,
    pub(crate) deployment_id: Stored<DeploymentId>,
    pub(crate) device_id: Stored<DeviceId>,
    pub(crate) device_name: String,
    pub(crate) bundle_name: String,
    pub(crate) bundle_version: String,
    pub(crate) phase: i32,
    pub(crate) number: i32,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    pub(crate) step: Option<String>,
    pub(crate) bytes_done: i64,
    pub(crate) bytes_total: i64,
    pub(crate) exit_code: Option<i32>,
    pub(crate) output_tail: String,
    pub(crate) output_marks: String,
    pub(crate) stop_requested: bool,
    pub(crate) stopped: bool,
    pub(crate) late_state: Option<String>,
    pub(crate) late_reason: Option<String>,
    pub(crate) late_message: Option<String>,
    pub(crate) late_exit_code: Option<i32>,
    pub(crate) late_output_tail: Option<String>,
    pub(crate) late_at: Option<i64>,
    pub(crate) updated_at: i64,
    pub(crate) active_digest: Option<String>,
    pub(crate) active_version: Option<String>,
    pub(crate) delivery_deadline: i64,
    pub(crate) run: Option<i32>,
    pub(crate) run_due_at: Option<i64>,
    pub(crate) run_message: Option<String>,
}

/// Targets of a deployment with their latest attempts.
pub(crate) fn of_deployment(
    deployment: Stored<DeploymentId>,
    cut_on: Option<DbBackend>,
) -> SelectStatement {
    let mut query = every_target(cut_on);
    query.and_where(Expr::col(("t", target::Column::DeploymentId)).eq(deployment));
    query
}

/// Targets with their latest attempts. With `cut_on` that database cuts the output to its end, for
/// statements that may read the whole fleet.
pub(crate) fn every_target(cut_on: Option<DbBackend>) -> SelectStatement {
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
    // Marks count from the beginning of the whole output.
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

/// A target without what holds it back.
pub(crate) fn target_from(row: Row) -> Result<Target> {
    let state = state(&row.state)?;
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
    // The answer to a stop that came too late is no news.
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
        bundle: shown_bundle(row.bundle_name, &row.bundle_version),
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
        opens_at: None,
        waiting: None,
        late,
        deferral,
    })
}
