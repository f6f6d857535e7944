//! A token that lets devices enrol.

use kernex_proto::ids::{DeviceId, TokenId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "enrollment_tokens")]
pub struct Model {
    /// Stands in the text of the token.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<TokenId>,
    /// SHA-256 of the secret in lower-case hex.
    pub secret_hash: String,
    /// How many new devices it could let in at first.
    pub uses_total: i32,
    /// How many it may still let in.
    pub uses_left: i32,
    /// A JSON object with the labels each device gets.
    pub labels: String,
    /// The device that one new key may take over.
    pub replaces_id: Option<Stored<DeviceId>>,
    /// The name of that device when the token was made.
    pub replaces_name: Option<String>,
    pub created_by: String,
    pub created_at: i64,
    pub expires_at: i64,
    pub revoked_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
