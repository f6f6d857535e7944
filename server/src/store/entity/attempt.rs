//! One numbered try of a target.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_id: Stored<TargetId>,
    /// From 1; a retry is the next number.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    /// The deployment of its target, kept here so that the queue is read without a join.
    pub deployment_id: Stored<DeploymentId>,
    pub device_id: Stored<DeviceId>,
    /// Attempts of one device and one bundle name run one after the other, by `generation`.
    pub bundle_name: String,
    /// Copied from the target: the device's count of orders when this one was given.
    pub generation: i64,
    /// Each write adds one and names the one it read: compare-and-set.
    pub revision: i64,
    /// A name of [`State`](crate::domain::attempt::State).
    pub state: String,
    /// The agent may still hold it, or is still to get it. Partial indexes have only these
    /// rows.
    pub unresolved: bool,
    /// Why it failed; a name of [`Reason`](crate::domain::attempt::FailureReason).
    pub reason: Option<String>,
    /// What went wrong in words; empty while nothing did.
    pub message: String,
    /// What it is doing while it runs; a name of [`Step`](crate::domain::attempt::Step).
    pub step: Option<String>,
    /// Bytes of the step that are done.
    pub bytes_done: i64,
    /// 0 when unknown.
    pub bytes_total: i64,
    /// Of the script.
    pub exit_code: Option<i32>,
    /// The end of the script's output.
    pub output_tail: String,
    /// Of which step and stream its parts are: a JSON array of `[place, step, stream]`, or empty.
    pub output_marks: String,
    /// How long it took on the device.
    pub duration_ms: Option<i64>,
    /// What the device ran once it was over: null before the outcome, empty when nothing
    /// ran.
    pub active_version: Option<String>,
    /// The digest of that, likewise.
    pub active_digest: Option<String>,
    /// What the device ran before it, likewise.
    pub previous_digest: Option<String>,
    /// The device is to stop it.
    pub stop_requested: bool,
    /// The stop ends going back as well.
    pub stop_going_back: bool,
    /// The agent said that it is stopped; it may still go back.
    pub stopped: bool,
    /// The sessions it was pushed in, encoded by [`Sent`](crate::domain::attempt::Sent).
    pub sent_epoch: i64,
    /// Newest session its stop was pushed in; 0 for none.
    pub stop_sent_epoch: i64,
    /// When it expires if the device has not accepted it; counts from the moment it may
    /// begin.
    pub delivery_deadline: i64,
    /// How long it may take once accepted, in microseconds.
    pub execution_us: i64,
    /// When it expires once accepted.
    pub execution_deadline: Option<i64>,
    pub created_at: i64,
    /// When anything about it changed last; watchers read by this.
    pub updated_at: i64,
    pub accepted_at: Option<i64>,
    /// When it reached a final state.
    pub closed_at: Option<i64>,
    /// The device's outcome has come.
    pub answered: bool,
    /// The outcome that came after the attempt was closed; the state above stays.
    pub late_state: Option<String>,
    pub late_reason: Option<String>,
    pub late_message: Option<String>,
    pub late_exit_code: Option<i32>,
    pub late_output_tail: Option<String>,
    pub late_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
