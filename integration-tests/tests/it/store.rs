//! The store alone, on both databases.

mod attempts;
mod bundles;
mod cancelling;
mod copied_devices;
mod deployments;
mod device_limits;
mod devices;
mod drifts;
mod dynamic_deployments;
mod enrolment;
mod events;
mod filters;
mod fixture;
mod fleet;
mod halting;
mod heartbeats;
mod held_attempts;
mod penalties;
mod resume_marks;
mod revocations;
mod rollbacks;
mod schedules;
mod schema;
mod sessions;
mod stale_writes;
mod superseding;
