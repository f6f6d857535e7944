//! Where a device runs something else than its last outcome said.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "device_drifts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: Stored<DeviceId>,
    /// Bundle name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// What the last outcome said.
    pub expected_version: String,
    /// Null when no outcome said that anything runs.
    pub expected_digest: Option<String>,
    /// What the device says.
    pub actual_version: String,
    /// Null when it runs nothing; empty when it cannot tell.
    pub actual_digest: Option<String>,
    /// When that was seen first.
    pub since: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
