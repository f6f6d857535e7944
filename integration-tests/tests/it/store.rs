//! The store alone, on both databases: what it promises whatever runs above it.

mod attempts;
mod bundles;
mod device_limits;
mod devices;
mod drifts;
mod dynamic;
mod enrolment;
mod events;
mod fixture;
mod fleet;
mod marks;
mod penalties;
mod revocations;
mod rollbacks;
mod schedules;
mod schema;
mod sessions;
