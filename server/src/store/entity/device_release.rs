//! What a device is known to run. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// What a device is known to run.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "device_releases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub version: String,
    pub digest: String,
    pub previous_digest: String,
    pub since: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
