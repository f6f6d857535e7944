//! Runs the attempts in the journal: one at a time, the oldest first, and only after a session has
//! confirmed this agent.

use std::{sync::Arc, time::Duration};

use kernex_proto::{ids::AttemptId, telemetry, v1, words};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    bundle::{self, BundleDir, activate, archives},
    config::Config,
    identity::Identity,
    journal::{Journal, JournalError, ReleaseChange},
    sandbox::Sandbox,
    settings::Settings,
    shared::Shared,
};

mod attempt;
mod outcome;
mod recover;
mod spans;

use attempt::Attempt;

/// Pause before a journal that cannot be read or written is tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);
/// Pauses before files that could not be removed are tried again: the first when descriptors or
/// memory were short, the second otherwise.
const TIDY_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

pub(crate) struct Executor {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sandbox: Sandbox,
    pub(crate) shutdown: CancellationToken,
}

/// How a run of an attempt ended.
enum RunResult {
    /// It is over; the change says what `current` names now, when that changed.
    Over(Box<v1::Outcome>, Option<ReleaseChange>),
    /// The agent stops; the journal has what is needed to continue after the next start.
    Later,
    /// `hooks.pre` asked for time: it waits until the server grants another run.
    Deferred,
}

impl Executor {
    pub(crate) async fn run(self) {
        let mut link = self.shared.link.subscribe();
        tokio::select! {
            confirmed = link.wait_for(Option::is_some) => if confirmed.is_err() { return },
            () = self.shutdown.cancelled() => return,
        }
        while !self.shutdown.is_cancelled() {
            match self.journal.call(Journal::next_ready).await {
                Ok(Some(id)) => self.attempt(id).await,
                Ok(None) => {
                    let tidy_again = self.retry_removals().await;
                    tokio::select! {
                        () = self.shared.work.notified() => {}
                        () = tokio::time::sleep(tidy_again.unwrap_or_default()), if tidy_again.is_some() => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the journal"
                    );
                    tokio::time::sleep(JOURNAL_RETRY).await;
                }
            }
        }
    }

    async fn attempt(&self, id: AttemptId) {
        let stops = self.shared.set_running(id);
        // Read after `set_running`: a stop that came before is in the journal, a later one cancels
        // the tokens.
        let record = match self.journal.call(move |journal| journal.get(id)).await {
            Ok(Some(record)) if record.stage().is_some() => record,
            Ok(_) => return self.shared.clear_running(),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the journal"
                );
                self.shared.clear_running();
                return tokio::time::sleep(JOURNAL_RETRY).await;
            }
        };
        if record.stop_requested {
            stops.work.cancel();
        }
        if record.stop_going_back {
            stops.going_back.cancel();
        }
        let command = record.command.clone().unwrap_or_default();
        let deploy = record.deploy().cloned().unwrap_or_default();
        let span = spans::step_span!(
            "deploy",
            otel.kind = "consumer",
            device = %self.identity.device,
            device.name = self.shared.device_name(),
            command = %id,
            deployment = deploy.deployment_id,
            bundle = %format_args!("{}:{}", deploy.name, deploy.version),
            trace_id = tracing::field::Empty,
        );
        telemetry::set_parent(&span, &command.traceparent);
        async {
            let result = Box::pin(Attempt::new(self, id, &record, &deploy, stops).run()).await;
            self.shared.clear_running();
            match result {
                RunResult::Later => tracing::info!("put off until the agent runs again"),
                RunResult::Deferred => {
                    tracing::info!("hooks.pre asked to be asked again later");
                    self.shared.progress.send_replace(None);
                    self.shared.reports.notify_one();
                }
                RunResult::Over(outcome, change) => {
                    let traceparent = traceparent_or(&command.traceparent);
                    self.conclude(id, *outcome, change, traceparent).await;
                    self.remove_old_releases(deploy.name.clone()).await;
                }
            }
        }
        .instrument(span)
        .await;
    }

    /// Writes an outcome into the journal however long that takes: a full disk must not lose it.
    async fn conclude(
        &self,
        id: AttemptId,
        outcome: v1::Outcome,
        change: Option<ReleaseChange>,
        traceparent: String,
    ) {
        tracing::info!(
            state = words::state(outcome.state()),
            reason = words::reason(outcome.reason()),
            exit_code = outcome.exit_code,
            why = Some(outcome.message.as_str()).filter(|why| !why.is_empty()),
            duration_ms = outcome.duration_ms,
            "finished"
        );
        // After the line: it would have the fields of the span too, and say reason and code twice.
        spans::mark_outcome(&tracing::Span::current(), &outcome);
        // No progress is reported after the end.
        self.shared.progress.send_replace(None);
        loop {
            let (outcome, change, traceparent) =
                (outcome.clone(), change.clone(), traceparent.clone());
            let written = self
                .journal
                .call(move |journal| journal.finish(id, outcome, change, traceparent))
                .await;
            match written {
                Ok(()) => break,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot write the outcome down; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(JOURNAL_RETRY) => {}
                // Without an outcome the next start finds the attempt begun and reports it as
                // interrupted.
                () = self.shutdown.cancelled() => return,
            }
        }
        self.shared.reports.notify_one();
    }

    /// Removes what could not be removed when its attempt ended. Returns when to try again, if
    /// anything is left. Called only while no attempt runs.
    async fn retry_removals(&self) -> Option<Duration> {
        let remover = self.shared.remover.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            let swept = remover.sweep();
            let retried = bundle::retry_removals(&remover);
            if let Err(error) = &retried {
                tracing::warn!(%error, "cannot look for old releases");
            }
            match swept {
                Err(stuck) if stuck.is_shortage() => Some(TIDY_RETRY.0),
                swept if swept.is_err() || retried.is_err() => Some(TIDY_RETRY.1),
                _ => remover.leftovers().map(|_| TIDY_RETRY.1),
            }
        });
        tidied.await.unwrap_or(Some(TIDY_RETRY.0))
    }

    async fn remove_old_releases(&self, name: String) {
        let (remover, keep) = (self.shared.remover.clone(), self.settings().keep_releases);
        let setting = self.config.max_archive_space;
        let collected = tokio::task::spawn_blocking(move || {
            let removed = activate::remove_old(&BundleDir::open(&remover, &name)?, keep);
            archives::tidy(&remover, archives::limit(&remover, setting));
            removed
        })
        .await;
        if let Ok(Err(error)) = collected {
            tracing::warn!(%error, "cannot remove old releases");
        }
    }

    fn settings(&self) -> Arc<Settings> {
        self.shared.settings()
    }

    /// Repairs what a crash left. Runs before everything else.
    pub(crate) async fn recover(&self) -> Result<(), JournalError> {
        recover::recover(self).await
    }
}

/// The trace context of the current span, or `given` when this agent does not trace.
fn traceparent_or(given: &str) -> String {
    let current = telemetry::current_traceparent();
    if current.is_empty() {
        given.to_owned()
    } else {
        current
    }
}
