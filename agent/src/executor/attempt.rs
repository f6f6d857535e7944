//! One attempt from download to outcome. Each step is in the journal before it begins.

use std::time::Duration;

use kernex_proto::{
    ids::{AttemptId, Digest},
    manifest::Manifest,
    v1::{self, FailureReason, Step},
};

use tokio_util::sync::CancellationToken;

use super::{
    Executor, RunResult,
    outcome::{AfterScript, StepError},
};
use crate::{
    bundle::{BundleDir, activate, folder_name},
    clock, durable,
    journal::{Record, Stage, Started, Switch},
    sandbox::Output,
    shared::StopTokens,
};

mod finish_run;
mod going_back;
mod health;
mod prepare;
mod restart;
mod scripts;

pub(super) use going_back::rollback_scripts;

use going_back::RollbackPaths;
use scripts::ScriptRun;

/// Execution time of a command that does not say.
const DEFAULT_EXECUTION: Duration = Duration::from_secs(3600);

pub(super) struct Attempt<'a> {
    executor: &'a Executor,
    id: AttemptId,
    record: &'a Record,
    deploy: &'a v1::Deploy,
    stops: StopTokens,
    output: Output,
    /// Exit code of the last script that exited.
    exit_code: Option<i32>,
    accepted_at: Duration,
    /// Time that the command allows; going back has as much again.
    execution: Duration,
    deadline: Duration,
    is_going_back: bool,
    /// A step has begun that may have changed what the device runs.
    has_begun: bool,
}

/// A release that is unpacked.
struct Prepared {
    bundle_dir: BundleDir,
    folder: String,
    previous: Option<String>,
    manifest: Manifest,
    version: String,
    digest: String,
    /// It is a copy that was on the device before this attempt.
    is_copy: bool,
    /// Nothing of it was downloaded for this run.
    was_here: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        executor: &'a Executor,
        id: AttemptId,
        record: &'a Record,
        deploy: &'a v1::Deploy,
        stops: StopTokens,
    ) -> Self {
        // After a reboot the old instant means nothing; the time starts again.
        let accepted_at = record
            .accepted_at
            .as_ref()
            .filter(|at| at.boot_id == clock::boot_id())
            .map_or_else(clock::since_boot, |at| Duration::from_millis(at.millis));
        let execution = match deploy.execution_ms {
            0 => DEFAULT_EXECUTION,
            millis => Duration::from_millis(millis),
        };
        Self {
            executor,
            id,
            record,
            deploy,
            stops,
            output: Output::default(),
            exit_code: None,
            accepted_at,
            execution,
            deadline: accepted_at.saturating_add(execution),
            is_going_back: false,
            has_begun: false,
        }
    }

    pub(super) async fn run(mut self) -> RunResult {
        let mut result = match self.record.stage() {
            Some(Stage::Restarted(restarting)) => self.resume_after_restart(restarting).await,
            Some(Stage::GoingBack(failing)) => self.resume_going_back(failing).await,
            Some(Stage::Returning(returning, failing)) => {
                self.resume_after_rollback_restart(returning, failing).await
            }
            Some(Stage::Fresh | Stage::Deferred | Stage::CutOff) | None => self.begin_fresh().await,
        };
        if let RunResult::Over(outcome, _) = &mut result {
            outcome.duration_ms = millis(clock::since_boot().saturating_sub(self.accepted_at));
        }
        result
    }

    async fn begin_fresh(&mut self) -> RunResult {
        let tmp = self.executor.config.state_dir.join("tmp");
        let archive = tmp.join(format!("{}.bundle", self.id.target));
        let aside = tmp.join(format!("{}.unpacked", self.id.target));
        let prepared = self.prepare(&archive, &aside).await;
        let remover = self.executor.shared.remover.clone();
        let swept = tokio::task::spawn_blocking(move || {
            durable::discard(&archive);
            let _ = remover.remove(&aside);
        });
        let _ = swept.await;
        match prepared {
            // Everything so far can be done again.
            Err(StepError::ShuttingDown) => RunResult::Later,
            Err(stopped) => RunResult::Over(Box::new(stopped.into_outcome()), None),
            Ok(prepared) => {
                let result = self.execute(&prepared).await;
                self.finish_run(prepared, result).await
            }
        }
    }

    /// Continues to go back after a restart of the agent.
    async fn resume_going_back(&mut self, failing: v1::Outcome) -> RunResult {
        if !failing.output_tail.is_empty() {
            self.output = Output::of_earlier(&failing.output_tail, &failing.output_marks);
        }
        match self.rollback_paths() {
            Ok(paths) => self.go_back(paths, failing).await,
            Err(err) => {
                let stopped = StepError::internal("cannot use the state folder", &err);
                RunResult::Over(Box::new(stopped.into_outcome()), None)
            }
        }
    }

    /// The release of this attempt as the journal and the disk describe it.
    fn unpacked_release(&self) -> Result<Prepared, String> {
        let paths = self.rollback_paths().map_err(|err| err.to_string())?;
        Ok(Prepared {
            manifest: paths.bundle_dir.manifest(&paths.from)?,
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            bundle_dir: paths.bundle_dir,
            folder: paths.from,
            previous: paths.to,
            is_copy: paths.keep,
            was_here: false,
        })
    }

    fn rollback_paths(&self) -> std::io::Result<RollbackPaths> {
        let bundle_dir = BundleDir::open(&self.executor.shared.remover, &self.deploy.name)?;
        let digest: Digest = self.deploy.digest.parse().map_err(std::io::Error::other)?;
        let own = folder_name(&self.deploy.version, digest, self.id);
        let (from, to) = match &self.record.switch {
            Some(switch) => {
                let to = Some(&switch.from).filter(|from| !from.is_empty());
                (switch.to.clone(), to.cloned())
            }
            None => (own.clone(), activate::current(&bundle_dir)?),
        };
        Ok(RollbackPaths {
            bundle_dir,
            keep: from != own,
            from,
            to,
        })
    }

    /// Runs hooks, script, switch and health. None of it is ever repeated, except probes.
    async fn execute(&mut self, prepared: &Prepared) -> Result<(), StepError> {
        if let Some(pre) = &prepared.manifest.hooks.pre {
            let run = prepared.run(Step::PreHook, "hooks.pre", pre);
            self.script(&run).await?;
        }
        if let Some(script) = prepared.deploy_script() {
            let run = prepared.run(Step::Script, "deploy.script", script);
            if self.script(&run).await? == AfterScript::Restart {
                return self.await_restart(prepared, false).await;
            }
        }
        self.activate(prepared).await?;
        self.run_post_switch_steps(prepared).await
    }

    /// Makes the release current. May be repeated.
    async fn activate(&mut self, prepared: &Prepared) -> Result<(), StepError> {
        self.begin_step(Step::Activate).await?;
        self.switch(prepared).await
    }

    async fn switch(&self, prepared: &Prepared) -> Result<(), StepError> {
        self.note_switch(prepared).await?;
        activate::switch(&prepared.bundle_dir, Some(&prepared.folder))
            .map_err(|err| StepError::internal("cannot switch to the release", &err))
    }

    async fn note_switch(&self, prepared: &Prepared) -> Result<(), StepError> {
        let switch = Switch {
            to: prepared.folder.clone(),
            from: prepared.previous.clone().unwrap_or_default(),
        };
        let id = self.id;
        self.executor
            .journal
            .call(move |journal| journal.note_switch(id, switch))
            .await
            .map_err(|err| StepError::internal("cannot write to the journal", &err))
    }

    /// Runs the steps after the switch: the post script and health.
    async fn run_post_switch_steps(&mut self, prepared: &Prepared) -> Result<(), StepError> {
        if let Some((name, post)) = prepared.post_script() {
            let run = prepared.run(Step::PostHook, name, post);
            if self.script(&run).await? == AfterScript::Restart {
                return self.await_restart(prepared, true).await;
            }
        }
        self.health(prepared).await
    }

    /// The token that stops the current part of the attempt.
    fn end_token(&self) -> &CancellationToken {
        if self.is_going_back {
            &self.stops.going_back
        } else {
            &self.stops.work
        }
    }

    /// Waits for `what`. Fails when the attempt is stopped, the agent stops, or the deadline passes
    /// first.
    async fn unless_ended<T>(&self, what: impl Future<Output = T>) -> Result<T, StepError> {
        tokio::select! {
            done = what => Ok(done),
            () = self.end_token().cancelled() => Err(StepError::Stopped),
            () = self.executor.shutdown.cancelled() => Err(StepError::ShuttingDown),
            () = clock::sleep_until(self.deadline) => Err(StepError::failed(
                FailureReason::HealthCheck,
                "health: not shown to be healthy within the execution time",
            )),
        }
    }

    /// Begins a step: in the journal, and for the server to show.
    async fn begin_step(&mut self, step: Step) -> Result<(), StepError> {
        self.note_step(step).await?;
        self.report(step, 0);
        Ok(())
    }

    /// Writes into the journal that a step begins. Fails when the attempt was stopped meanwhile.
    async fn note_step(&mut self, step: Step) -> Result<(), StepError> {
        let (id, started) = (self.id, started(step));
        let may = self
            .executor
            .journal
            .call(move |journal| journal.start(id, started))
            .await
            .map_err(|err| StepError::internal("cannot write to the journal", &err))?;
        if !may {
            return Err(StepError::Stopped);
        }
        self.has_begun |= step != Step::PreHook;
        Ok(())
    }

    /// Reports how far it is; only the newest report matters.
    fn report(&self, step: Step, bytes_done: u64) {
        let bytes_total = if step == Step::Download {
            self.deploy.size_bytes
        } else {
            0
        };
        let progress = v1::Progress {
            step: step.into(),
            bytes_done,
            bytes_total,
            stopped: false,
        };
        self.executor.shared.report_progress(self.id, progress);
    }
}

impl Prepared {
    /// The script that runs before the switch. A copy with a rollback script runs only that one,
    /// after the switch.
    fn deploy_script(&self) -> Option<&str> {
        match self.rollback_script() {
            Some(_) => None,
            None => self.manifest.script(),
        }
    }

    /// The script that runs after the switch, with its name in the manifest.
    fn post_script(&self) -> Option<(&'static str, &str)> {
        let post = self.manifest.hooks.post.as_deref();
        self.rollback_script()
            .map(|script| ("rollback.script", script))
            .or_else(|| post.map(|script| ("hooks.post", script)))
    }

    /// The script that may ask for a restart, as the manifest calls it.
    fn restarting_script(&self) -> &'static str {
        match self.rollback_script() {
            Some(_) => "rollback.script",
            None => "deploy.script",
        }
    }

    /// What an outcome says about the download that was not needed.
    fn was_here_text(&self) -> &'static str {
        match self.was_here {
            true => "nothing was moved: the bundle was on the device",
            false => "",
        }
    }

    fn rollback_script(&self) -> Option<&str> {
        self.manifest.rollback_script().filter(|_| self.is_copy)
    }

    fn run<'r>(&'r self, step: Step, name: &'static str, script: &'r str) -> ScriptRun<'r> {
        ScriptRun {
            step,
            name,
            script,
            bundle_dir: &self.bundle_dir,
            folder: &self.folder,
            previous: self.previous.as_deref(),
            manifest: &self.manifest,
            version: &self.version,
            digest: &self.digest,
        }
    }
}

fn started(step: Step) -> Started {
    Started {
        step: step.into(),
        boot_id: clock::boot_id(),
        ..Started::default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
