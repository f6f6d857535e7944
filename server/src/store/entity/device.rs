//! One machine. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// One machine.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "devices")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub created_at: i64,
    pub revision: i64,
    pub epoch: i64,
    pub confirmed_epoch: i64,
    pub generation: i64,
    pub conflicted: bool,
    pub conflict: String,
    pub protocol_revision: i64,
    pub journal_id: Option<Uuid>,
    pub last_seen: Option<i64>,
    pub agent_version: String,
    pub boot_id: String,
    pub os: String,
    pub arch: String,
    pub hostname: String,
    pub kernel: String,
    pub cpu_count: i64,
    pub memory_bytes: i64,
    pub disk_fault: Option<String>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
