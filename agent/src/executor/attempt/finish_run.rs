//! The end of an attempt: what stays on the disk, and what the journal records.

use kernex_proto::v1::{self, AttemptState};

use super::{Attempt, Prepared, going_back::RollbackPaths};
use crate::{
    bundle::activate,
    executor::{RunResult, outcome::StepError},
    journal::{Journal, Release, ReleaseChange},
};

impl Attempt<'_> {
    /// Makes the disk fit the result: an attempt that had begun and failed goes back; a failed
    /// release is removed.
    pub(super) async fn finish_run(
        &mut self,
        prepared: Prepared,
        result: Result<(), StepError>,
    ) -> RunResult {
        match result {
            Ok(()) => {
                let change = self.activated(&prepared).await;
                let mut outcome = v1::Outcome {
                    state: AttemptState::Succeeded.into(),
                    message: prepared.was_here_text().to_owned(),
                    exit_code: self.exit_code,
                    ..v1::Outcome::default()
                };
                self.output.put_into(&mut outcome);
                RunResult::Over(Box::new(outcome), Some(change))
            }
            Err(StepError::Deferred) => self.defer(&prepared).await,
            Err(StepError::Restarting) => RunResult::Later,
            Err(stopped) if self.has_begun => {
                let paths = RollbackPaths {
                    bundle_dir: prepared.bundle_dir,
                    from: prepared.folder,
                    to: prepared.previous,
                    keep: prepared.is_copy,
                };
                self.go_back(paths, stopped.into_outcome()).await
            }
            Err(stopped) => {
                if !prepared.is_copy {
                    let removed = tokio::task::spawn_blocking(move || {
                        activate::remove(&prepared.bundle_dir, &prepared.folder)
                    });
                    if let Ok(Err(error)) = removed.await {
                        tracing::warn!(%error, "cannot remove the release that failed");
                    }
                }
                let mut outcome = stopped.into_outcome();
                self.output.put_into(&mut outcome);
                RunResult::Over(Box::new(outcome), None)
            }
        }
    }

    /// Notes that the attempt waits for another run. Its release stays for that.
    async fn defer(&self, prepared: &Prepared) -> RunResult {
        let deferred = v1::Deferred {
            run: self.record.run(),
            retry_after_ms: super::millis(prepared.manifest.retry_after()),
            message: last_line(&self.output.text()),
        };
        let message = deferred.message.clone();
        let traceparent = self.traceparent();
        let id = self.id;
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.defer(id, deferred, traceparent))
            .await;
        let stopped = match noted {
            Ok(true) => {
                tracing::info!(message, "`hooks.pre` asks to be run again later");
                return RunResult::Deferred;
            }
            Ok(false) => StepError::Stopped,
            Err(err) => StepError::internal("cannot write to the journal", &err),
        };
        let mut outcome = stopped.into_outcome();
        self.output.put_into(&mut outcome);
        RunResult::Over(Box::new(outcome), None)
    }

    async fn activated(&self, prepared: &Prepared) -> ReleaseChange {
        let release = Release {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            previous_digest: self.active_digest().await,
            folder: prepared.folder.clone(),
            previous_folder: prepared.previous.clone().unwrap_or_default(),
        };
        ReleaseChange {
            name: self.deploy.name.clone(),
            release: Some(release),
        }
    }

    /// Digest that the journal has under the bundle's name.
    pub(super) async fn active_digest(&self) -> String {
        let known = self.executor.journal.call(Journal::releases).await;
        known
            .unwrap_or_default()
            .into_iter()
            .find(|(known, _)| *known == self.deploy.name)
            .map(|(_, release)| release.digest)
            .unwrap_or_default()
    }
}

/// The last line of a script's output, shown while the attempt waits.
fn last_line(output: &str) -> String {
    let line = output.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default();
    line[..line.floor_char_boundary(1024)].to_owned()
}
