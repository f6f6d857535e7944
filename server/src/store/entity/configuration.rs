//! Settings and values for some devices. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// Settings and values for some devices.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "configurations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub device_id: Option<Uuid>,
    pub selector: Option<String>,
    pub configure: Vec<u8>,
    pub revision: i64,
    pub updated_at: i64,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
