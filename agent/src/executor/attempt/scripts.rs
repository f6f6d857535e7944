//! The scripts of an attempt: each begins in the journal, runs in the sandbox and ends with one meaning.

use std::path::{Path, PathBuf};

use kernex_proto::v1::Step;
use tracing::Instrument as _;

use super::{Attempt, Prepared, started};
use crate::{
    clock,
    executor::{
        traceparent_or,
        verdict::{Break, after_script},
    },
    journal::Started,
    sandbox::{Ended, Marker, Script, environment},
};

impl Attempt<'_> {
    /// Runs one script to its end; once begun it is never run again.
    pub(super) async fn script(
        &mut self,
        prepared: &Prepared,
        step: Step,
        script: &str,
    ) -> Result<(), Break> {
        let span = tracing::info_span!("script", step = environment::step_name(step));
        async {
            self.begin(step).await?;
            let internal = |err: std::io::Error| Break::internal("cannot run the script", &err);
            let dir = prepared.shelf.release(&prepared.folder);
            let sandbox = self.executor.sandbox.clone();
            let running = sandbox
                .start(Script {
                    script,
                    dir: &dir,
                    env: self.environment(prepared, step, &dir),
                    marker: Marker::new(self.id),
                })
                .map_err(internal)?;
            let limit = prepared
                .manifest
                .timeout()
                .min(self.executor.config.max_script_time)
                .min(self.deadline.saturating_sub(clock::since_boot()));
            let deadline = clock::since_boot().saturating_add(limit);
            self.note_process(step, running.pid(), running.start_ticks())
                .await;
            let (stop, shutdown) = (self.stop.clone(), self.executor.shutdown.clone());
            let interrupted = async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shutdown.cancelled() => {}
                }
            };
            let ended = running
                .wait(&mut self.output, deadline, interrupted)
                .await
                .map_err(internal)?;
            if let Ended::Exited(code) = ended {
                self.exit_code = Some(code);
            }
            after_script(step, ended, limit.as_secs(), self.stop.is_cancelled())
        }
        .instrument(span)
        .await
    }

    /// Should the agent die now, the next one finds the process by this, or else by its marker.
    async fn note_process(&self, step: Step, pid: i32, start_ticks: u64) {
        let id = self.id;
        let started = Started {
            pid,
            start_ticks,
            ..started(step)
        };
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.started_as(id, started))
            .await;
        if let Err(error) = noted {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot note the process of the script");
        }
    }

    fn environment(&self, prepared: &Prepared, step: Step, dir: &Path) -> Vec<(String, String)> {
        let previous: Option<PathBuf> = prepared
            .previous
            .as_ref()
            .map(|folder| prepared.shelf.release(folder));
        let traceparent = self
            .record
            .command
            .as_ref()
            .map(|command| traceparent_or(&command.traceparent))
            .unwrap_or_default();
        environment::Context {
            device_id: self.executor.identity.device.to_string(),
            device_name: &self.executor.wires.device_name(),
            deployment_id: &self.deploy.deployment_id,
            target_id: self.id.target.to_string(),
            attempt: self.id.number,
            step,
            bundle_name: &self.deploy.name,
            bundle_version: &self.deploy.version,
            bundle_digest: &self.deploy.digest,
            state_dir: &prepared.shelf.state(),
            release_dir: dir,
            previous_release_dir: previous.as_deref(),
            traceparent: &traceparent,
        }
        .environment(&prepared.manifest.env, |name| std::env::var(name).ok())
    }
}
