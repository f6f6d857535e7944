//! One numbered try of a target. Columns are explained in the migration that makes the table.

use sea_orm::entity::prelude::*;

/// One numbered try of a target.
#[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    pub deployment_id: Uuid,
    pub device_id: Uuid,
    pub bundle_name: String,
    pub generation: i64,
    pub revision: i64,
    pub state: String,
    pub unresolved: bool,
    pub reason: Option<String>,
    pub message: String,
    pub step: Option<String>,
    pub bytes_done: i64,
    pub bytes_total: i64,
    pub exit_code: Option<i32>,
    pub output_tail: String,
    pub duration_ms: Option<i64>,
    pub active_version: Option<String>,
    pub active_digest: Option<String>,
    pub previous_digest: Option<String>,
    pub stop_requested: bool,
    pub stop_going_back: bool,
    pub stopped: bool,
    /// [`Sent`](crate::domain::attempt::Sent).
    pub sent_epoch: i64,
    pub stop_sent_epoch: i64,
    pub delivery_deadline: i64,
    pub execution_us: i64,
    pub execution_deadline: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
    pub accepted_at: Option<i64>,
    pub closed_at: Option<i64>,
    pub answered: bool,
    pub late_state: Option<String>,
    pub late_reason: Option<String>,
    pub late_message: Option<String>,
    pub late_exit_code: Option<i32>,
    pub late_output_tail: Option<String>,
    pub late_at: Option<i64>,
}

/// Joins are written where they are used.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
