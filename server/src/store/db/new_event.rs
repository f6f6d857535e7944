//! What a transaction tells those who watch, once it is committed.

use futures::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    store::db::{batching::Db, error::Result},
};

/// Something that happened in a transaction.
pub(crate) struct NewEvent {
    pub(crate) kind: String,
    pub(crate) device: Option<Uuid>,
    pub(crate) deployment: Option<Uuid>,
    pub(crate) detail: Value,
}

/// Writes the events of a transaction, as its last statements before the commit.
pub(crate) type LogEvents =
    for<'a> fn(&'a Db, Timestamp, Vec<NewEvent>) -> BoxFuture<'a, Result<()>>;
