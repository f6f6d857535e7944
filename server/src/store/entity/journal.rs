//! A journal a device came with.

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "journals")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub journal_id: Stored<JournalId>,
    pub first_seen: i64,
    /// When another journal took over.
    pub retired_at: Option<i64>,
    /// Newest session confirmed with this journal while its device is conflicted; 0
    /// otherwise.
    pub confirmed_epoch: i64,
    /// Copies of this journal that know no session as new as this were decided against.
    pub given_up_below: i64,
    /// Every outcome numbered up to this is recorded; null while nobody knows.
    pub recorded_seq: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
