//! The live session of a device.

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::{ReplicaId, Stored};

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    pub epoch: i64,
    /// The server that holds it.
    pub replica: Stored<ReplicaId>,
    /// SHA-256 of the session token in lower-case hex.
    pub token_hash: String,
    /// The journal the agent came with.
    pub journal_id: Stored<JournalId>,
    pub opened_at: i64,
    /// When the agent had the number on disk; the device is online from then on.
    pub confirmed_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
