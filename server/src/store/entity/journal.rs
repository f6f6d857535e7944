//! A journal a device came with. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// A journal a device came with.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "journals")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub journal_id: Uuid,
    pub first_seen: i64,
    pub retired_at: Option<i64>,
    pub confirmed_epoch: i64,
    pub given_up_below: i64,
    pub recorded_seq: Option<i64>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
