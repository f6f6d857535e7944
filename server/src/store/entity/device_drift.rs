//! Where a device runs something else than its last outcome said. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// Where a device runs something else than its last outcome said.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device_drifts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub expected_version: String,
    pub expected_digest: Option<String>,
    pub actual_version: String,
    pub actual_digest: Option<String>,
    pub since: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
