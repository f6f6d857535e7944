//! An event: something that happened, for watchers.

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    /// Grows in the order of commits.
    #[sea_orm(primary_key, auto_increment = false)]
    pub cursor: i64,
    pub at: i64,
    /// In dotted lower case.
    pub kind: String,
    /// The device it is about.
    pub device_id: Option<Stored<DeviceId>>,
    /// The deployment it is about.
    pub deployment_id: Option<Stored<DeploymentId>>,
    /// More, as a JSON object.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
