//! A report about an attempt nobody knows. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// A report about an attempt nobody knows.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "unknown_reports")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub device_id: Uuid,
    pub target_id: Uuid,
    pub number: i32,
    pub kind: String,
    pub report: Vec<u8>,
    pub at: i64,
    pub bundle_name: Option<String>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
