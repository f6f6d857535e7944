//! The latest heartbeat of a device.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "heartbeats")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    pub cpu_percent: f64,
    pub memory_used_mb: i64,
    pub memory_total_mb: i64,
    pub disk_free_bytes: i64,
    pub disk_total_bytes: i64,
    pub uptime_seconds: i64,
    /// The session it came in; an older one replaces nothing.
    pub epoch: i64,
    /// When it was received.
    pub at: i64,
    /// When the device was last added to `heartbeat_samples`.
    pub sampled_at: i64,
    /// What the agent says is active, as JSON.
    pub releases: String,
    /// What it could not remove, as JSON with the count and some of them; null when nothing
    /// is left.
    pub leftovers: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
