//! What one device should apply, and what it said about it.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device_configurations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    /// Grows by one with each change of `configure`.
    pub revision: i64,
    /// What the device should apply, as it is pushed: an encoded `Configure`.
    pub configure: Vec<u8>,
    /// Session in which the newest revision was pushed; -1 for none.
    pub sent_epoch: i64,
    /// The revision the device said it applies.
    pub active_revision: i64,
    /// The revision it refused last; 0 for none.
    pub refused_revision: i64,
    /// Why it refused it.
    pub refusal: String,
    /// When it last said something about it.
    pub answered_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
