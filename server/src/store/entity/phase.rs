//! A phase of a deployment.

use kernex_proto::ids::DeploymentId;
use sea_orm::entity::prelude::*;

use crate::store::entity::stored::Stored;

#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "phases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub deployment_id: Stored<DeploymentId>,
    /// From 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    /// How many targets it opens; null when its size is a share.
    pub size_count: Option<i64>,
    /// The same as a share, in hundredths of a percent.
    pub size_points: Option<i32>,
    /// Share that has to succeed, in hundredths of a percent; null for no threshold.
    pub success_points: Option<i32>,
    /// How many may fail; null when that is a share.
    pub failures_count: Option<i64>,
    /// The same as a share, in hundredths of a percent.
    pub failures_points: Option<i32>,
    /// How long it is observed after its success, in microseconds.
    pub soak_us: i64,
    pub opened_at: Option<i64>,
    /// When it reached its success threshold.
    pub passed_at: Option<i64>,
    /// When it had soaked as well.
    pub soaked_at: Option<i64>,
    /// Failures an operator saw and went on over.
    pub forgiven: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
