//! When a deployment's targets may begin. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// When a deployment's targets may begin, and which devices it goes on taking in.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "schedules")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub deployment_id: Uuid,
    pub start_at: Option<i64>,
    pub windows: String,
    pub spread_us: i64,
    pub deadline: Option<i64>,
    pub deadline_passed: bool,
    pub selector: Option<String>,
    pub penalty_after: i32,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
