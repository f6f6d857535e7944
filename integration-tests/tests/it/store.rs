//! The store alone, on both databases.

mod attempts;
mod bundles;
mod device_limits;
mod devices;
mod drifts;
mod dynamic_deployments;
mod enrolment;
mod events;
mod filters;
mod fixture;
mod fleet;
mod penalties;
mod resume_marks;
mod revocations;
mod rollbacks;
mod schedules;
mod schema;
mod sessions;
mod stale_writes;
