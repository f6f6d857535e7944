//! One file per table, without logic. Nothing of this leaves the store.
//!
//! Times are microseconds since 1970 on the database's clock. A column without a comment is what
//! its name says. `Relation` is empty in each file, because joins are written where they are used.

pub(crate) mod attempt;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod cluster;
pub(crate) mod configuration;
pub(crate) mod deployment;
pub(crate) mod device;
pub(crate) mod device_configuration;
pub(crate) mod device_drift;
pub(crate) mod device_key;
pub(crate) mod device_label;
pub(crate) mod device_release;
pub(crate) mod enrollment_token;
pub(crate) mod event;
pub(crate) mod heartbeat;
pub(crate) mod heartbeat_sample;
pub(crate) mod journal;
pub(crate) mod lease;
pub(crate) mod operator_token;
pub(crate) mod phase;
pub(crate) mod request;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod session;
pub(crate) mod signature;
pub(crate) mod stored;
pub(crate) mod target;
pub(crate) mod unknown_report;
