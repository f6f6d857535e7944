//! A bundle. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// A bundle.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "bundles")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub digest: String,
    pub size: i64,
    pub format: String,
    pub manifest_json: String,
    pub created_by: String,
    pub created_at: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
