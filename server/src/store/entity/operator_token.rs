//! A token of an operator, without its secret.

use kernex_proto::ids::TokenId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "operator_tokens")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<TokenId>,
    /// Who it is for.
    pub name: String,
    /// A name of `Role`.
    pub role: String,
    /// SHA-256 of the secret in lower-case hex.
    pub hash: String,
    pub created_by: String,
    pub created_at: i64,
    pub expires_at: i64,
    pub revoked_at: Option<i64>,
    /// Number of the transaction that revoked it.
    pub revocation: Option<i64>,
    /// When it was used last, to half a minute.
    pub last_used_at: Option<i64>,
    /// From which address.
    pub last_used_from: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
