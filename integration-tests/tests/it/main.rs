//! One binary with every behaviour that needs real processes; one module per area.

mod bundles;
mod cli;
mod configuration;
mod control_plane;
mod deployments;
mod dev;
mod drift;
mod enrolment;
mod failures;
mod fleet;
mod health;
mod heartbeats;
mod journal;
mod metrics;
mod outcomes;
mod plan;
mod rollback;
mod rolling_back;
mod scripts;
mod selectors;
mod sessions;
mod store;
mod telemetry;
mod two_machines;
mod untrusted_bundles;
mod watching;
