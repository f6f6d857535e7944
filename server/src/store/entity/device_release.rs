//! What a device is known to run.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "device_releases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    /// Bundle name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub version: String,
    /// What runs. It keeps the bundle from being deleted.
    pub digest: String,
    /// What the device can go back to; empty for nothing.
    pub previous_digest: String,
    /// When the server learnt of it.
    pub since: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
