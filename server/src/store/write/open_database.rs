//! Opens a database.

use crate::{
    clock::Clock,
    store::{
        db::{error::Result, store::Store},
        write::log_events::log_events,
    },
};

impl Store {
    /// Opens a database: `sqlite://path` or `postgres://...`.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        Self::connect(url, clock, log_events).await
    }
}
