//! How commands reach the devices that are here.
//!
//! `wake_ups` says who may have something due, and `moments` when that comes with time alone.
//! `dispatcher` asks the store what is due and pushes it. `registry` knows the session of each
//! device that is here. `in_flight` owns what was pushed and is not in the rows yet. The store asks
//! it before it decides about an attempt, so it stands below the store.

pub mod dispatcher;
pub(crate) mod end_reason;
pub mod in_flight;
mod moments;
pub mod registry;
pub mod wake_ups;
