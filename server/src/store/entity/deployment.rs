//! A deployment: an operator's order, and where it stands.

use kernex_proto::ids::{DeploymentId, TokenId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "deployments")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<DeploymentId>,
    pub bundle_name: String,
    /// Empty when a rollback returns devices to several versions; each target has its own.
    pub bundle_version: String,
    /// SHA-256 of the bundle; empty likewise.
    pub digest: String,
    /// A name of [`DeploymentState`](crate::domain::rollout::DeploymentState).
    pub state: String,
    /// How it ended; null until it is finished.
    pub result: Option<String>,
    /// Why it is paused; empty otherwise.
    pub paused_reason: String,
    /// Number of the newest open phase; 0 before the first.
    pub phase: i32,
    /// How long an attempt may wait for its device, in microseconds.
    pub delivery_us: i64,
    /// How long an attempt may take once accepted, in microseconds.
    pub execution_us: i64,
    /// W3C trace context of the order; empty for none.
    pub traceparent: String,
    /// Name on the token of who gave the order.
    pub created_by: String,
    pub created_at: i64,
    /// When an operator cancelled or halted it.
    pub cancelled_at: Option<i64>,
    pub finished_at: Option<i64>,
    /// Grows by one with each change of the deployment or of its phases.
    pub revision: i64,
    /// 0 when every target may begin with the order.
    pub phase_count: i32,
    /// Most targets in flight at once; null for no limit.
    pub max_in_flight: Option<i64>,
    /// A JSON object from label to the most targets in flight for each value of it.
    pub budgets: String,
    /// An operator promotes each phase after the first.
    pub approval: bool,
    /// What happens when too many targets failed; a name of
    /// [`OnFailure`](crate::domain::rollout::OnFailure).
    pub on_failure: String,
    /// What its maker calls it; empty for nothing. No two have the same name.
    pub name: String,
    /// The deployment this one takes back.
    pub rolls_back: Option<Stored<DeploymentId>>,
    /// The selector of the order; empty when it had none.
    pub selector: String,
    /// How many devices the order named one by one.
    pub named_devices: i64,
    /// What its maker noted.
    pub message: String,
    /// The address the order came from; null for the server itself.
    pub created_from: Option<String>,
    /// The operator token it was given with.
    pub token_id: Option<Stored<TokenId>>,
    /// Why it ended itself; empty otherwise.
    pub ended_reason: String,
    /// The newest deployment that takes this one back.
    pub rolled_back_by: Option<Stored<DeploymentId>>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
