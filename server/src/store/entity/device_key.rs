//! A key that speaks, or spoke, for a device. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// A key that speaks, or spoke, for a device.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "device_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: String,
    pub device_id: Uuid,
    pub der: Vec<u8>,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
    pub revoked_because: Option<String>,
    pub device_name: Option<String>,
    pub revoked_epoch: Option<i64>,
    pub revocation: Option<i64>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
