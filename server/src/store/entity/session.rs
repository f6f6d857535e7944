//! The live session of a device. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// The live session of a device.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Uuid,
    pub epoch: i64,
    pub replica: Uuid,
    pub token_hash: String,
    pub journal_id: Uuid,
    pub opened_at: i64,
    pub confirmed_at: Option<i64>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
