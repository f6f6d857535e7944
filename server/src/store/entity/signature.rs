//! A detached signature of a bundle.

use sea_orm::entity::prelude::*;

use crate::store::entity::stored::{BundleId, Stored};

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "signatures")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub bundle_id: Stored<BundleId>,
    /// Names the key to verify with.
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: String,
    pub algorithm: String,
    pub signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
