//! One thing that happened. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub cursor: i64,
    pub at: i64,
    pub kind: String,
    pub device_id: Option<Uuid>,
    pub deployment_id: Option<Uuid>,
    pub detail: String,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
