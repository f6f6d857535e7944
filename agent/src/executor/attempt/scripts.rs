//! The scripts of an attempt: each is noted in the journal, runs in the sandbox, and its end has
//! exactly one meaning.

use std::{path::PathBuf, time::Duration};

use kernex_proto::{
    manifest::{Manifest, Restart},
    v1::Step,
    words,
};
use tracing::Span;

use super::{Attempt, started};
use crate::{
    bundle::BundleDir,
    clock,
    crash::Act,
    executor::{
        outcome::{AfterScript, RanScript, StepError, after_script},
        spans::{observed, step_span},
        traceparent_or,
    },
    journal::Started,
    sandbox::{Marker, Script, ScriptEnd, account, environment},
};

/// One script and the release it runs in.
pub(super) struct ScriptRun<'r> {
    pub(super) step: Step,
    /// Its name in the manifest.
    pub(super) name: &'static str,
    pub(super) script: &'r str,
    pub(super) bundle_dir: &'r BundleDir,
    /// Folder of the release it runs in.
    pub(super) folder: &'r str,
    /// Folder of the previous release.
    pub(super) previous: Option<&'r str>,
    pub(super) manifest: &'r Manifest,
    pub(super) version: &'r str,
    pub(super) digest: &'r str,
}

impl ScriptRun<'_> {
    /// Whether exit code 75 means that it has arranged for a restart.
    fn may_restart(&self) -> bool {
        let puts_to_work = matches!(self.name, "deploy.script" | "rollback.script");
        puts_to_work && self.manifest.restart == Some(Restart::Expected)
    }
}

impl Attempt<'_> {
    /// Runs one script. Once begun it is never run again in this run of the attempt.
    pub(super) async fn script(&mut self, run: &ScriptRun<'_>) -> Result<AfterScript, StepError> {
        let span = step_span!("script", step = words::step(run.step), script = run.name);
        let done = async {
            self.begin_step(run.step).await?;
            let limit = self.limit(run.manifest);
            let ended = self.run_within(run, limit).await?;
            self.meaning_of_end(run, ended, limit)
        };
        observed(span, done).await
    }

    /// Runs one script of a step that has begun.
    pub(super) async fn run_begun(
        &mut self,
        run: &ScriptRun<'_>,
    ) -> Result<AfterScript, StepError> {
        let limit = self.limit(run.manifest);
        let ended = self.run_within(run, limit).await?;
        self.meaning_of_end(run, ended, limit)
    }

    /// Runs a probe, which may be repeated and is not in the journal.
    pub(super) async fn run_probe(
        &mut self,
        run: &ScriptRun<'_>,
        limit: Duration,
    ) -> Result<Result<(), String>, StepError> {
        let exit_code = self.exit_code;
        let ended = self.run_within(run, limit).await?;
        self.exit_code = exit_code;
        match self.meaning_of_end(run, ended, limit) {
            Ok(_) => Ok(Ok(())),
            Err(StepError::Failed { message, .. }) => Ok(Err(message)),
            Err(disturbed) => Err(disturbed),
        }
    }

    fn meaning_of_end(
        &self,
        run: &ScriptRun<'_>,
        ended: ScriptEnd,
        limit: Duration,
    ) -> Result<AfterScript, StepError> {
        let script = RanScript {
            name: run.name,
            step: run.step,
            limit_seconds: limit.as_secs(),
            may_restart: run.may_restart(),
        };
        after_script(&script, ended, self.end_token().is_cancelled())
    }

    /// Time limit of a script that starts now.
    fn limit(&self, manifest: &Manifest) -> Duration {
        let own = manifest.timeout();
        let left = self.deadline.saturating_sub(clock::since_boot());
        own.min(self.executor.settings().max_script_time).min(left)
    }

    async fn run_within(
        &mut self,
        run: &ScriptRun<'_>,
        limit: Duration,
    ) -> Result<ScriptEnd, StepError> {
        let internal = |err: std::io::Error| StepError::internal("cannot run the script", &err);
        let settings = self.executor.settings();
        let may_restart = run.may_restart();
        let dir = run.bundle_dir.release(run.folder);
        let sandbox = self.executor.sandbox.clone();
        Act::ScriptStart.before();
        let running = sandbox
            .start(Script {
                script: run.script,
                dir: &dir,
                env: self.environment(run),
                marker: Marker::new(self.id),
                grace: settings.script_grace,
                spares: may_restart.then_some(kernex_proto::manifest::TRY_AGAIN_EXIT_CODE),
                new_privs: self.executor.config.no_new_privs.allows_more(run.manifest),
            })
            .map_err(internal)?;
        Act::ScriptStart.after();
        let deadline = clock::since_boot().saturating_add(limit);
        if run.step != Step::Health {
            self.note_process(run, running.pid(), running.start_ticks())
                .await;
        }
        let (stop, shutdown) = (self.end_token().clone(), self.executor.shutdown.clone());
        let rolls_back = self.is_going_back;
        // The script gets time to end. It may have asked for this very restart, and a device should
        // not be left between two releases.
        let shutdown_grace = if may_restart || rolls_back {
            settings.script_grace
        } else {
            Duration::ZERO
        };
        let interrupted = async move {
            tokio::select! {
                () = stop.cancelled() => settings.stop_grace,
                () = shutdown.cancelled() => {
                    tokio::time::sleep(shutdown_grace).await;
                    settings.script_grace
                }
            }
        };
        self.output.begin(run.step);
        let ended = running
            .wait(&mut self.output, deadline, interrupted)
            .await
            .map_err(internal)?;
        if let ScriptEnd::Exited(code) = ended {
            Span::current().record("process.exit.code", code);
        }
        if let ScriptEnd::Exited(code) = ended
            && !rolls_back
        {
            self.exit_code = Some(code);
        }
        Ok(ended)
    }

    /// If the agent dies now, the next one finds the process by this entry, or by its marker.
    async fn note_process(&self, run: &ScriptRun<'_>, pid: i32, start_ticks: u64) {
        let id = self.id;
        let started = Started {
            pid,
            start_ticks,
            script: run.name.to_owned(),
            ..started(run.step)
        };
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.note_process(id, started))
            .await;
        if let Err(error) = noted {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot note the process of the script");
        }
    }

    /// Trace context for scripts and reports.
    pub(super) fn traceparent(&self) -> String {
        let command = self.record.command.as_ref();
        command
            .map(|command| traceparent_or(&command.traceparent))
            .unwrap_or_default()
    }

    fn environment(&self, run: &ScriptRun<'_>) -> Vec<(String, String)> {
        let previous: Option<PathBuf> = run.previous.map(|folder| run.bundle_dir.release(folder));
        let outer = |name: &str| std::env::var(name).ok();
        environment::Context {
            account: account::own(outer, &run.bundle_dir.state()),
            device_id: self.executor.identity.device.to_string(),
            device_name: &self.executor.shared.device_name(),
            deployment_id: &self.deploy.deployment_id,
            target_id: self.id.target.to_string(),
            attempt: self.id.number,
            run: self.record.run(),
            step: run.step,
            bundle: environment::BundleVersion {
                name: &self.deploy.name,
                version: run.version,
                digest: run.digest,
            },
            state_dir: &run.bundle_dir.state(),
            release_dir: &run.bundle_dir.release(run.folder),
            previous_release_dir: previous.as_deref(),
            traceparent: &self.traceparent(),
            configuration: &self.executor.settings().values,
        }
        .environment(&run.manifest.env, outer)
    }
}
