//! A phase of a deployment. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// A phase of a deployment.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "phases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub deployment_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    pub size_count: Option<i64>,
    pub size_points: Option<i32>,
    pub success_points: Option<i32>,
    pub failures_count: Option<i64>,
    pub failures_points: Option<i32>,
    pub soak_us: i64,
    pub opened_at: Option<i64>,
    pub passed_at: Option<i64>,
    pub soaked_at: Option<i64>,
    pub forgiven: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
