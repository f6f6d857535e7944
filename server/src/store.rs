//! The only place that knows the database: one schema on SQLite and PostgreSQL.
//!
//! Inside this wall arrows go one way: `write` (one verb a file) uses `read` (questions), which
//! uses `entity` (a table a file), which uses `db` (connection, transaction, batching, paging).
//! No two files use each other.
//!
//! Every change goes through a transaction, which retries it, stamps it, writes
//! its events in commit order and wakes [`Store::changes`]. Reads outside of it see committed rows
//! only. Entities never leave this module.

mod db;
#[expect(unreachable_pub, reason = "the derive makes public items of rows")]
mod entity;
#[cfg(test)]
mod floors;
mod read;
mod write;

pub use db::{
    error::{Result, StoreError},
    page::{Page, Paged},
    store::{OperatorStore, Store},
};
pub use write::replay::{Caller, RequestKey};

/// Tokens of operators and for enrolment, and who enrols.
pub mod access {
    pub use super::read::tokens::{EnrollmentTokenRow, Principal, Role};
    pub use super::write::create_token::{NewEnrollmentToken, NewOperatorToken, OperatorToken};
    pub use super::write::enroll::{EnrollDevice, EnrollError, Enrolled};
}

/// Bundles without their bytes.
pub mod bundles {
    pub use super::read::bundles::BundleRow;
    pub use super::write::insert_bundle::NewBundle;
}

/// Configurations, and what one device should apply.
pub mod configurations {
    pub use super::read::configurations::{Configuration, DeviceConfiguration, Scope};
}

/// Orders, and where their phases and targets stand.
pub mod deployments {
    pub use super::read::{
        deployments::{CreatedDeployment, Deployment},
        new_deployment::NewDeployment,
        phases::PhaseStatus,
        targets::{Progress, Target},
    };
    pub use crate::domain::rollout::{Counts, DeploymentResult, DeploymentState, Rollout};
}

/// Machines under management.
pub mod devices {
    pub use super::read::{
        device_keys::DeviceKey, devices::Device, history::HistoryEntry, metrics::MetricSample,
    };
    pub use crate::domain::device::{Conflict, DeviceStatus, DiskFault};
}

/// Commands that are due.
pub mod dispatch {
    pub use super::read::commands::{DueCommand, DueKind};
}

/// What happened, and how long it is kept.
pub mod events {
    pub use super::read::events::{EventBounds, EventRow};
    pub use super::write::prune::Retention;
}

/// The newest heartbeats, and what became of them.
pub mod heartbeats {
    pub use super::write::{heartbeat_row::HeartbeatRow, record_heartbeats::Recorded};
}

/// Limits of a page.
pub mod page {
    pub use super::db::page::MAX_PAGE;
}

/// What an order would mean, before it is given.
pub mod plans {
    pub use super::read::planning::{PlannedDevice, Planning};
}

/// What agents say about attempts.
pub mod reports {
    pub use super::write::report::{IncomingReport, Place, ReportEvent};
}

/// Keys that were revoked.
pub mod revocations {
    pub use super::read::device_keys::RevokedKey;
    pub use super::write::revoke::REMEMBERED;
}

/// Taking a deployment back.
pub mod rollbacks {
    pub use super::read::rollback_plan::Step;
    pub use super::write::take_back::{NewRollback, RolledBack};
    pub use crate::domain::rollback::Verdict;
}

/// What a round over the open rollouts did.
pub mod rollouts {
    pub use super::write::advance::Advanced;
}

/// When an order may begin, and which devices it goes on taking in.
pub mod schedules {
    pub use super::read::new_deployment::Terms;
}

/// Sessions that open, and what a device may download in them.
pub mod sessions {
    pub use super::read::downloads::DownloadRefused;
    pub use super::write::{
        close_session::LEASE_GRACE,
        opening::{HeldAttempt, OpenSession, OpenedSession},
    };
}

/// Orders about a deployment that goes on.
pub mod steering {
    pub use super::read::halted::{Halt, Halted};
    pub use super::write::{retry::Retried, steer::Steered};
}

/// Changes to sessions that are committed together.
pub mod session_changes {
    pub use super::write::change_sessions::{Committed, SessionChange};
}
