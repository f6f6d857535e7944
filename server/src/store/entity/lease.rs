//! A replica that lives until its lease runs out.

use sea_orm::entity::prelude::*;

use crate::store::entity::stored::{ReplicaId, Stored};

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "leases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub replica: Stored<ReplicaId>,
    pub expires_at: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
