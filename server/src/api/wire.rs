//! Conversions for operators: requests are checked, rows become answers. One file a thing. What
//! single words mean is in [`crate::wire`].

mod access;
pub(super) mod audit;
mod bundle;
pub(super) mod configuration;
pub(super) mod deployment;
mod device;
mod event;
pub(super) mod event_filter;
pub(super) mod fields;
pub(super) mod filter;
pub(super) mod fitting;
mod fleet;
mod halt;
mod rollback;
mod rollout;
mod schedule;
pub(super) mod selector;
mod target;
