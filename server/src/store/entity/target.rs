//! One device within one deployment. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// One device within one deployment.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "targets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub deployment_id: Uuid,
    pub device_id: Uuid,
    pub device_name: String,
    pub bundle_name: String,
    pub bundle_version: String,
    pub digest: String,
    pub generation: i64,
    pub phase: i32,
    pub latest_attempt: i32,
    pub created_at: i64,
    pub rank: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
