//! Who changed what, and who was refused.

use kernex_proto::ids::TokenId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub at: i64,
    /// Name on the token of who called; empty when nobody was recognised.
    pub principal: String,
    /// The method that was called.
    pub method: String,
    /// What was changed, by id or name.
    pub subject: String,
    /// More, as a JSON object.
    pub detail: String,
    /// The id the caller gave the request.
    pub request_id: Option<Uuid>,
    /// The operator token of who called; null for others, and in rows of earlier versions.
    pub token_id: Option<Stored<TokenId>>,
    /// Where the call came from; null for the server itself, and in rows of earlier versions.
    pub address: Option<String>,
    /// A name of `AuditResult`.
    pub result: String,
    /// How many alike it stands for.
    pub count: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
