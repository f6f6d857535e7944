//! Who changed what.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub at: i64,
    /// Name on the token of who changed it.
    pub principal: String,
    /// The method that was called.
    pub method: String,
    /// What was changed, by id or name.
    pub subject: String,
    /// More, as a JSON object.
    pub detail: String,
    /// The id the caller gave the request.
    pub request_id: Option<Uuid>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
