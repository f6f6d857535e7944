//! The installation: one row. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// The installation: one row.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "cluster")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub cluster_id: Uuid,
    pub event_cursor: i64,
    pub created_at: i64,
    pub revocations: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
