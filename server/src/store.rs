//! The only place that knows the database: one schema on SQLite and PostgreSQL.
//!
//! Inside this wall arrows go one way: `write` (one verb a file) uses `read` (questions), which
//! uses `entity` (a table a file), which uses `db` (connection, transaction, sizes of statements,
//! paging). No two files use each other.
//!
//! Operators change through [`OperatorStore`], which wants their [`Caller`], and ask a [`View`],
//! which is made with their [`Scope`]. The rest of the server uses [`Store`].
//!
//! Every change goes through a transaction, which retries it, stamps it, writes its events in
//! commit order and wakes [`Store::changes`]. Reads outside of one see committed rows only.
//! Entities never leave this module.

mod db;
#[expect(unreachable_pub, reason = "the derive makes public items of rows")]
mod entity;
#[cfg(test)]
mod floors;
mod read;
mod write;

pub use db::{
    error::{Result, StoreError},
    page::{MAX_PAGE, Page, Paged},
    store::{OperatorStore, Store},
};

// What a caller may see, and the store as they see it.
pub use read::scope::{Scope, View};

// Who changes something, and requests that are repeated.
pub use write::replay::{Caller, Origin, RequestKey};

// The audit, and who used a token or was refused.
pub use read::audit::{AuditEntry, AuditFilter, AuditResult};
pub use write::record_sightings::{Refusal, Refused, TokenUse};

// Tokens of operators and for enrolment, and who enrols.
pub use read::tokens::{
    EnrollmentTokenRow, KnownToken, OperatorTokenRow, Principal, Role, TokenEnd,
};
pub use write::{
    create_token::{AdminToken, NewEnrollmentToken, NewOperatorToken, OperatorToken},
    enroll::{BindKeyError, EnrollDevice, Enrolled},
};

// Keys that were revoked.
pub use read::device_keys::RevokedKey;
pub use write::revoke::REVOCATIONS_KEPT;

// Bundles without their bytes; which bytes a session may have.
pub use entity::stored::BundleId;
pub use read::{bundles::BundleRow, downloads::DownloadError};
pub use write::insert_bundle::NewBundle;

// Devices, and what is to be on each.
pub use read::{
    configurations::{Configuration, ConfigurationScope, DeviceConfiguration},
    device_filter::DeviceFilter,
    device_keys::DeviceKey,
    device_rows::Device,
    fleet::{AgentVersionCount, DeviceCounts, FleetSummary, ReleaseCount},
    fleet_counts::FleetCounts,
    history::HistoryEntry,
    metrics::MetricSample,
};

// Deployments: what is ordered, what it would mean, and where its phases and targets stand.
pub use read::{
    deployment_filter::{DeploymentFilter, IdPrefix},
    deployments::{CreatedDeployment, Deployment, Order},
    halted::{HaltStatus, HaltedDevice},
    new_deployment::{NewDeployment, Terms},
    phases::PhaseStatus,
    planning::{PlannedDevice, Planning},
    rollback_plan::RollbackTarget,
    target_filter::TargetFilter,
    target_rows::{LateOutcome, StepProgress, Target, TargetDeferral},
    waiting::Waiting,
};
pub use write::{
    advance::Advanced,
    insert_rollback::{NewRollback, RolledBack},
    retry::Retried,
    steer::Steered,
};

// Sessions of devices: the replica that has them, how they open and end, which commands are due in
// them, and what comes in.
pub use entity::stored::ReplicaId;
pub use read::{
    commands::{DueCommand, DueKind},
    due::Due,
};
pub use write::{
    change_sessions::{SessionChange, SessionChanged},
    close_session::LEASE_GRACE,
    heartbeat_row::{CachedHeartbeat, HeartbeatRow},
    record_heartbeats::RecordedHeartbeats,
    report::{IncomingReport, ReportEvent, ReportPlace},
    session_opening::{HeldAttempt, OpenSession, OpenedSession},
};

// Moving to another database.
pub use write::copy_database::{CopiedTable, CopyError};

// What happened, and how long it is kept.
pub use read::events::{EventBounds, EventRow};
pub use write::prune::Retention;
