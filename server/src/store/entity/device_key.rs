//! A key that speaks, or spoke, for a device.

use kernex_proto::ids::DeviceId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "device_keys")]
pub struct Model {
    /// SHA-256 of the key in lower-case hex.
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: String,
    /// Its device. The row outlives the device, so that a revoked key can never enrol
    /// again.
    pub device_id: Stored<DeviceId>,
    /// The public key, SPKI DER.
    pub der: Vec<u8>,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
    /// `deleted` or `replaced`; null where an earlier version revoked it.
    pub revoked_because: Option<String>,
    /// Name of its device when it was revoked.
    pub device_name: Option<String>,
    /// Sessions up to this number spoke with it.
    pub revoked_epoch: Option<i64>,
    /// Number of the transaction that revoked it.
    pub revocation: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
