//! The only place that knows the database: one schema on SQLite and PostgreSQL.
//!
//! Inside this wall arrows go one way: [`write`] (one verb a file) uses [`read`] (questions), which
//! uses [`entity`] (a table a file), which uses [`db`] (connection, transaction, batching, paging).
//! No two files use each other.
//!
//! Every change goes through [a transaction](db::transaction), which retries it, stamps it, writes
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
pub use write::replay::Caller;

/// Access.
pub mod access {
    pub use super::read::tokens::{EnrollmentTokenRow, Principal, Role};
    pub use super::write::create_token::{NewEnrollmentToken, NewOperatorToken, OperatorToken};
    pub use super::write::enroll::{EnrollDevice, EnrollError, Enrolled};
}

/// Bundles.
pub mod bundles {
    pub use super::read::bundles::BundleRow;
    pub use super::write::insert_bundle::NewBundle;
}

/// Configurations.
pub mod configurations {
    pub use super::read::configurations::{Configuration, DeviceConfiguration, Scope};
}

/// Deployments.
pub mod deployments {
    pub use super::read::{
        deployments::{CreatedDeployment, Deployment},
        new_deployment::NewDeployment,
        phases::PhaseStatus,
        targets::{Progress, Target},
    };
    pub use crate::domain::rollout::{Counts, DeploymentResult, DeploymentState, Rollout};
}

/// Devices.
pub mod devices {
    pub use super::read::{
        device_keys::DeviceKey, devices::Device, history::HistoryEntry, metrics::MetricSample,
    };
    pub use crate::domain::device::{Conflict, DeviceStatus, DiskFault};
}

/// Dispatch.
pub mod dispatch {
    pub use super::read::commands::{DueCommand, DueKind};
}

/// Events.
pub mod events {
    pub use super::read::events::{EventBounds, EventRow};
    pub use super::write::prune::Retention;
}

/// Heartbeats.
pub mod heartbeats {
    pub use super::write::{heartbeat_row::HeartbeatRow, record_heartbeats::Recorded};
}

/// Page.
pub mod page {
    pub use super::db::page::MAX_PAGE;
}

/// Plans.
pub mod plans {
    pub use super::read::planning::{PlannedDevice, Planning};
}

/// Reports.
pub mod reports {
    pub use super::write::report::{IncomingReport, Place, ReportEvent};
}

/// Revocations.
pub mod revocations {
    pub use super::read::device_keys::RevokedKey;
    pub use super::write::revoke::REMEMBERED;
}

/// Rollbacks.
pub mod rollbacks {
    pub use super::read::rollback_plan::Step;
    pub use super::write::take_back::{NewRollback, RolledBack};
    pub use crate::domain::rollback::Verdict;
}

/// Rollouts.
pub mod rollouts {
    pub use super::write::advance::Advanced;
}

/// Schedules.
pub mod schedules {
    pub use super::read::new_deployment::Terms;
}

/// Sessions.
pub mod sessions {
    pub use super::read::downloads::DownloadRefused;
    pub use super::write::{
        close_session::LEASE_GRACE,
        opening::{HeldAttempt, OpenSession, OpenedSession},
    };
}

/// Steering.
pub mod steering {
    pub use super::read::halted::{Halt, Halted};
    pub use super::write::{retry::Retried, steer::Steered};
}

/// Steps.
pub mod steps {
    pub use super::write::take_steps::{Step, Taken};
}
