//! Who changed what. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// Who changed what.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub at: i64,
    pub principal: String,
    pub method: String,
    pub subject: String,
    pub detail: String,
    pub request_id: Option<Uuid>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
