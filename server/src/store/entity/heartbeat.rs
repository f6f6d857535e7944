//! The latest heartbeat of a device. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// The latest heartbeat of a device.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "heartbeats")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    pub cpu_percent: f64,
    pub memory_used_mb: i64,
    pub memory_total_mb: i64,
    pub disk_free_bytes: i64,
    pub disk_total_bytes: i64,
    pub uptime_seconds: i64,
    pub epoch: i64,
    pub at: i64,
    pub sampled_at: i64,
    pub releases: String,
    pub leftovers: Option<String>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
