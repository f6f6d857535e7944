//! A report about an attempt nobody knows.

use kernex_proto::ids::{DeviceId, TargetId};
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "unknown_reports")]
pub struct Model {
    /// Grows with time.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub device_id: Stored<DeviceId>,
    /// What the device calls it; there is no such target here.
    pub target_id: Stored<TargetId>,
    pub number: i32,
    /// `accepted` or `outcome`.
    pub kind: String,
    /// The outcome, encoded as in the contract; empty for `accepted`.
    pub report: Vec<u8>,
    pub at: i64,
    /// What the outcome says runs; the newest report of each name is kept.
    pub bundle_name: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
