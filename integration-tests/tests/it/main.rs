//! One binary with every behaviour that needs real processes; one module per area.

mod bundles;
mod cli;
mod control_plane;
mod deployments;
mod dev;
mod enrolment;
mod failures;
mod heartbeats;
mod journal;
mod outcomes;
mod scripts;
mod sessions;
mod store;
mod telemetry;
mod untrusted_bundles;
