//! What one device should work by, and what it said about it. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// What one device should work by, and what it said about it.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device_configurations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    pub revision: i64,
    pub configure: Vec<u8>,
    pub sent_epoch: i64,
    pub active_revision: i64,
    pub refused_revision: i64,
    pub refusal: String,
    pub answered_at: Option<i64>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
