//! An order. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// An order.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "deployments")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub bundle_name: String,
    pub bundle_version: String,
    pub digest: String,
    pub state: String,
    pub result: Option<String>,
    pub paused_reason: String,
    pub phase: i32,
    pub delivery_us: i64,
    pub execution_us: i64,
    pub traceparent: String,
    pub created_by: String,
    pub created_at: i64,
    pub cancelled_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub revision: i64,
    pub phase_count: i32,
    pub max_in_flight: Option<i64>,
    pub budgets: String,
    pub approval: bool,
    pub on_failure: String,
    pub rolls_back: Option<Uuid>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
