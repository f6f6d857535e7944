//! The answer to a request id.

use sea_orm::entity::prelude::*;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "requests")]
pub struct Model {
    /// Name on the token of the caller.
    #[sea_orm(primary_key, auto_increment = false)]
    pub principal: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub method: String,
    /// Chosen by the caller.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: Uuid,
    /// Tells a repetition from another request with the same id: `v2:` and the SHA-256 of the
    /// encoded request. Without the mark it is from before and tells nothing.
    pub body_hash: String,
    /// The answer to give again, as JSON.
    pub response: String,
    pub created_at: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
