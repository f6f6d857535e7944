//! When a deployment's targets may begin.

use kernex_proto::ids::DeploymentId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

/// When a deployment's targets may begin, and which devices it goes on taking in.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "schedules")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub deployment_id: Stored<DeploymentId>,
    /// Nothing begins earlier.
    pub start_at: Option<i64>,
    /// A JSON array of texts. Targets may begin while any of them is open; always when
    /// there are none.
    pub windows: String,
    /// Beginnings are spread over this time, in microseconds.
    pub spread_us: i64,
    /// What is open then is closed.
    pub deadline: Option<i64>,
    /// That was done.
    pub deadline_passed: bool,
    /// Devices that come to match it later are added; null for the devices of the order
    /// only.
    pub selector: Option<String>,
    /// Failures in a row after which a device is left out; 0 for never.
    pub penalty_after: i32,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
