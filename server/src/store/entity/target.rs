//! One device within one deployment.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "targets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Stored<TargetId>,
    pub deployment_id: Stored<DeploymentId>,
    pub device_id: Stored<DeviceId>,
    /// Name of the device when the target was made.
    pub device_name: String,
    /// The bundle stands here and not on the deployment alone: going back can give a fleet
    /// several versions.
    pub bundle_name: String,
    pub bundle_version: String,
    /// SHA-256 of the bundle in lower-case hex.
    pub digest: String,
    /// The device's count of orders with this one; newer ones win.
    pub generation: i64,
    /// From 1; 0 without phases.
    pub phase: i32,
    /// Number of the newest attempt.
    pub latest_attempt: i32,
    pub created_at: i64,
    /// Order in which the targets of a phase begin.
    pub rank: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
