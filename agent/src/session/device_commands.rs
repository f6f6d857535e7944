//! Commands about the device and not about an attempt: a plan, a configuration.

use std::sync::Arc;

use kernex_proto::v1::{self, device_session_request::Message};

use super::{SessionError, active::Active};
use crate::{preflight, settings::Settings};

impl Active<'_> {
    /// Answers what a deploy would meet.
    pub(super) async fn plan(&mut self, plan: v1::Plan) -> Result<(), SessionError> {
        let planned = preflight::plan(&self.shared.remover, self.journal, plan).await?;
        self.send(Message::Planned(planned)).await
    }

    /// Applies a configuration, or answers why not.
    pub(super) async fn configure(&mut self, wanted: v1::Configure) -> Result<(), SessionError> {
        let revision = wanted.revision;
        let refusal = match Settings::configured(self.config, &wanted) {
            Ok(settings) => {
                // It has to survive a restart before the agent answers that it applies.
                self.journal
                    .call(move |journal| journal.configure(&wanted))
                    .await?;
                self.apply(settings);
                tracing::info!(revision, "took the configuration over");
                None
            }
            Err(why) => {
                tracing::warn!(revision, why, "refused a configuration");
                Some(why)
            }
        };
        self.tell_configured(revision, refusal).await
    }

    async fn tell_configured(
        &self,
        revision: u64,
        refusal: Option<String>,
    ) -> Result<(), SessionError> {
        self.send(Message::Configured(v1::Configured {
            revision,
            applied: refusal.is_none(),
            refusal: refusal.unwrap_or_default(),
            active_revision: self.shared.settings().revision,
            heartbeat_interval_ms: u64::try_from(self.heartbeat().as_millis()).unwrap_or(u64::MAX),
        }))
        .await
    }

    fn apply(&mut self, settings: Settings) {
        settings.set_log(self.config);
        self.shared.settings.send_replace(Arc::new(settings));
        self.restart_heartbeats();
    }
}
