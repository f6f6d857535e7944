//! The next run of a deferred attempt.

use kernex_proto::ids::TargetId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "runs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_id: Stored<TargetId>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    /// The run to grant, or the one that was granted last.
    pub run: i32,
    /// When to grant it; null once it was pushed.
    pub due_at: Option<i64>,
    /// What `hooks.pre` said when it asked for time.
    pub message: String,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
