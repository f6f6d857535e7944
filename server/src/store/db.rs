//! The database itself: connections, transactions, sizes of statements, pages of lists. This floor
//! knows no table.

pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod event_limit;
pub(crate) mod failures;
pub(crate) mod ids;
pub(crate) mod new_event;
pub(crate) mod page;
pub(crate) mod raw;
pub(crate) mod run_transaction;
pub(crate) mod sizes;
pub(crate) mod stamps;
pub(crate) mod store;
pub(crate) mod tell;
pub(crate) mod transaction;
pub(crate) mod values;
