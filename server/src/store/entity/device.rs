//! A device: one machine under management.

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "devices")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<DeviceId>,
    pub name: String,
    pub created_at: i64,
    /// Grows by one with each change an operator makes.
    pub revision: i64,
    /// Number of the newest session; each new one adds at least one.
    pub epoch: i64,
    /// Newest session number the agent has confirmed to have on disk.
    pub confirmed_epoch: i64,
    /// Count of the orders given for it; each target takes the next one.
    pub generation: i64,
    /// Two copies were seen; it gets no commands until an operator decides.
    pub conflicted: bool,
    /// Why it is conflicted; empty otherwise.
    pub conflict: String,
    /// Newest revision of the session protocol its key has spoken; an older one is refused.
    pub protocol_revision: i64,
    /// The agent's journal; null before the first session.
    pub journal_id: Option<Stored<JournalId>>,
    /// Last sign of life at a session's begin; heartbeats have their own time.
    pub last_seen: Option<i64>,
    pub agent_version: String,
    /// Changes with each boot of the machine.
    pub boot_id: String,
    pub os: String,
    pub arch: String,
    pub hostname: String,
    pub kernel: String,
    pub cpu_count: i64,
    pub memory_bytes: i64,
    /// What is wrong with the disk of the agent's state folder; null while it is well.
    pub disk_fault: Option<String>,
    /// When its last session ended; null while there is one, and where nobody noted the end.
    pub away_since: Option<i64>,
    /// A name of `AwayReason`, or empty.
    pub away_reason: String,
    /// More in words.
    pub away_detail: String,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
