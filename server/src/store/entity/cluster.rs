//! The installation: one row.

use kernex_proto::ids::ClusterId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "cluster")]
pub struct Model {
    /// Always 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// Tells this installation from others; devices sign it.
    pub cluster_id: Stored<ClusterId>,
    /// Number of the newest event. Who writes events holds this row until the commit, so
    /// that cursors grow in commit order.
    pub event_cursor: i64,
    pub created_at: i64,
    /// How many transactions revoked something.
    pub revocations: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
