//! Records that the clock jumped.

use serde_json::json;

use crate::store::db::{error::Result, new_event::Subject, store::Store};

impl Store {
    /// Records that deadlines do not count because the clock jumped, or that they count again.
    pub async fn note_clock(&self, trusted: bool) -> Result<()> {
        let kind = if trusted {
            "server.clock_steady"
        } else {
            "server.clock_jumped"
        };
        let detail = &json!({ "drift_seconds": self.clock_drift().as_secs() });
        self.write(|tx| async move {
            tx.event(kind, Subject::Nothing, detail.clone());
            Ok(())
        })
        .await
    }
}
