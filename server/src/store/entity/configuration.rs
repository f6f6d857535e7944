//! Settings and values for some devices.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "configurations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    /// The one device it is for; null when it has a selector.
    pub device_id: Option<Stored<DeviceId>>,
    /// The devices it is for; null when it has a device.
    pub selector: Option<String>,
    /// Settings and values, as an encoded `Configure` of the contract.
    pub configure: Vec<u8>,
    /// Grows by one with each change.
    pub revision: i64,
    pub updated_at: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
