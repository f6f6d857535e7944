//! Going back: the previous release becomes current again, and its scripts make it work.
//!
//! What failed is in the journal before anything is undone. After a crash the same steps follow,
//! but a script that had begun is not run again.
//!
//! Going back is a step with a time limit of its own, as long as that of the deploy. The stop of
//! the attempt does not end it; a second stop does. Then the previous release is current, and its
//! script is unfinished.

use std::time::Duration;

use kernex_proto::{
    manifest::Manifest,
    v1::{self, Step},
};
use tracing::Instrument as _;

use super::{
    Attempt, Prepared,
    restart::{no_restart, on_this_boot},
};
use crate::{
    bundle::{BundleDir, activate},
    clock,
    executor::{
        RunResult,
        outcome::{AfterScript, RollbackResult, StepError, with_rollback_result},
        spans::{mark_outcome, step_span},
    },
    journal::{Release, ReleaseChange, Returning},
    sandbox::Output,
};

/// Which release to leave, and which to return to.
pub(super) struct RollbackPaths {
    pub(super) bundle_dir: BundleDir,
    /// Folder of the release that failed.
    pub(super) from: String,
    /// Folder of the previous release, if there was one.
    pub(super) to: Option<String>,
    /// The failed release was on the device before this attempt, and stays.
    pub(super) keep: bool,
}

impl RollbackPaths {
    /// The previous release, prepared to run its scripts.
    fn previous_release(&self, manifest: Manifest) -> Prepared {
        let folder = self.to.clone().unwrap_or_default();
        let metadata = self.bundle_dir.metadata(&folder).unwrap_or_default();
        Prepared {
            bundle_dir: self.bundle_dir.clone(),
            folder,
            previous: Some(self.from.clone()),
            version: manifest.version.clone(),
            digest: metadata.digest,
            manifest,
            is_copy: true,
            was_here: true,
        }
    }
}

/// The scripts that make a release work again, each with its name in the manifest.
pub(in crate::executor) fn rollback_scripts(manifest: &Manifest) -> Vec<(&'static str, String)> {
    match manifest.rollback_script() {
        Some(script) => vec![("rollback.script", script.to_owned())],
        None => {
            let deploy = manifest.script().map(|script| ("deploy.script", script));
            let post = manifest.hooks.post.as_deref();
            let both = [deploy, post.map(|script| ("hooks.post", script))];
            let present = both.into_iter().flatten();
            present
                .map(|(name, script)| (name, script.to_owned()))
                .collect()
        }
    }
}

/// Why a device has not gone back.
enum RollbackError {
    Failed(String),
    /// A script asked for a restart; the journal says how to continue.
    Restarting,
}

impl Attempt<'_> {
    /// Goes back. The attempt ends with `outcome`, unless going back fails as well.
    pub(super) async fn go_back(
        &mut self,
        paths: RollbackPaths,
        outcome: v1::Outcome,
    ) -> RunResult {
        let span = step_span!("rollback", release = paths.to.as_deref());
        let gone = self.go_back_to(paths, outcome).instrument(span.clone());
        let result = Box::pin(gone).await;
        if let RunResult::Over(outcome, _) = &result
            && outcome.reason() == v1::FailureReason::RollbackFailed
        {
            mark_outcome(&span, outcome);
        }
        result
    }

    async fn go_back_to(&mut self, paths: RollbackPaths, mut outcome: v1::Outcome) -> RunResult {
        self.output.put_into(&mut outcome);
        self.begin_going_back(clock::since_boot().saturating_add(self.execution));
        let (id, failing) = (self.id, outcome.clone());
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.note_failure(id, failing))
            .await;
        if let Err(error) = noted {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot note that the device goes back");
        }
        self.report(Step::Rollback, 0);
        let mut change = None;
        let back = match self.restore_current(&paths).await {
            Ok(None) => RollbackResult::Nothing,
            Ok(Some(manifest)) => {
                // The next start of the agent continues with these scripts.
                if !rollback_scripts(&manifest).is_empty() && self.executor.shutdown.is_cancelled()
                {
                    return RunResult::Later;
                }
                let version = manifest.version.clone();
                match self.run_rollback_scripts(&paths, manifest).await {
                    Ok(()) => RollbackResult::To(version),
                    Err(RollbackError::Restarting) => return RunResult::Later,
                    Err(RollbackError::Failed(why)) => RollbackResult::Failed(version, why),
                }
            }
            Err(err) => {
                change = self.still_current(&paths).await;
                RollbackResult::Failed(String::new(), err.to_string())
            }
        };
        self.finish_going_back(paths, outcome, &back, change).await
    }

    /// Continues to go back after the restart that one of its scripts asked for.
    pub(super) async fn resume_after_rollback_restart(
        &mut self,
        returning: Returning,
        outcome: v1::Outcome,
    ) -> RunResult {
        tracing::info!("going on with going back after the restart");
        self.output = Output::of_earlier(&returning.output, &returning.output_marks);
        let usual = clock::since_boot().saturating_add(self.execution);
        let kept = returning.deadline.as_ref().map(on_this_boot);
        self.begin_going_back(kept.unwrap_or(usual).min(usual));
        let paths = match self.rollback_paths() {
            Ok(paths) => paths,
            Err(err) => {
                let back = RollbackResult::Failed(String::new(), err.to_string());
                return RunResult::Over(Box::new(with_rollback_result(outcome, &back)), None);
            }
        };
        let mut change = None;
        let back = match self.restore_current(&paths).await {
            Ok(None) => RollbackResult::Nothing,
            Ok(Some(manifest)) => {
                let version = manifest.version.clone();
                match self
                    .finish_after_rollback_restart(&paths, manifest, &returning.script)
                    .await
                {
                    Ok(()) => RollbackResult::To(version),
                    Err(why) => RollbackResult::Failed(version, why),
                }
            }
            Err(err) => {
                change = self.still_current(&paths).await;
                RollbackResult::Failed(String::new(), err.to_string())
            }
        };
        self.finish_going_back(paths, outcome, &back, change).await
    }

    /// Nothing of the deploy runs any more. Going back has a deadline of its own.
    fn begin_going_back(&mut self, deadline: Duration) {
        self.is_going_back = true;
        self.deadline = deadline;
        self.executor.shared.mark_work_ended(self.id);
    }

    async fn finish_going_back(
        &mut self,
        paths: RollbackPaths,
        outcome: v1::Outcome,
        back: &RollbackResult,
        change: Option<ReleaseChange>,
    ) -> RunResult {
        if !paths.keep {
            let swept = tokio::task::spawn_blocking(move || {
                activate::remove(&paths.bundle_dir, &paths.from)
            });
            if let Ok(Err(error)) = swept.await {
                tracing::warn!(%error, "cannot remove the release that failed");
            }
        }
        let mut outcome = with_rollback_result(outcome, back);
        self.output.put_into(&mut outcome);
        RunResult::Over(Box::new(outcome), change)
    }

    /// Makes the previous release current and returns its manifest, which names the scripts to run.
    async fn restore_current(&self, paths: &RollbackPaths) -> std::io::Result<Option<Manifest>> {
        let (bundle_dir, from, to) = (
            paths.bundle_dir.clone(),
            paths.from.clone(),
            paths.to.clone(),
        );
        tokio::task::spawn_blocking(move || {
            if activate::current(&bundle_dir)?.as_ref() == Some(&from) && to.as_ref() != Some(&from)
            {
                activate::switch(&bundle_dir, to.as_deref())?;
            }
            let Some(to) = to else {
                return Ok(None);
            };
            let manifest = bundle_dir.manifest(&to).map_err(std::io::Error::other)?;
            Ok(Some(manifest))
        })
        .await
        .unwrap_or_else(|err| Err(std::io::Error::other(err)))
    }

    /// Runs the scripts that make the previous release work again.
    async fn run_rollback_scripts(
        &mut self,
        paths: &RollbackPaths,
        manifest: Manifest,
    ) -> Result<(), RollbackError> {
        let scripts = rollback_scripts(&manifest);
        let Some((first, _)) = scripts.first() else {
            return Ok(());
        };
        let release = paths.previous_release(manifest);
        if let Err(why) = self.begin_rollback(first).await {
            return Err(RollbackError::Failed(why));
        }
        for (name, script) in &scripts {
            match self
                .run_begun(&release.run(Step::Rollback, name, script))
                .await
            {
                Ok(AfterScript::Next) => {}
                Ok(AfterScript::Restart) => return self.await_rollback_restart(name).await,
                Err(stopped) => {
                    return Err(RollbackError::Failed(stopped.rollback_failure_text(name)));
                }
            }
        }
        Ok(())
    }

    async fn begin_rollback(&mut self, script: &str) -> Result<(), String> {
        match self.begin_step(Step::Rollback).await {
            Ok(()) => Ok(()),
            Err(StepError::Stopped) => {
                Err(format!("stopped by an operator before {script} was done"))
            }
            Err(failed) => Err(failed.rollback_failure_text(script)),
        }
    }

    /// A rollback script has arranged for a restart. Notes in the journal how to continue, then
    /// waits for the restart.
    async fn await_rollback_restart(&self, script: &str) -> Result<(), RollbackError> {
        let (output, output_marks) = self.output.marked();
        let returning = Returning {
            script: script.to_owned(),
            output,
            output_marks,
            deadline: Some(self.durable_deadline()),
        };
        let id = self.id;
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.note_rollback_restart(id, returning))
            .await;
        if let Err(err) = noted {
            let stopped = StepError::internal("cannot write to the journal", &err);
            return Err(RollbackError::Failed(stopped.rollback_failure_text(script)));
        }
        tracing::info!(script, "waiting for the restart that going back asked for");
        match self.unless_ended(std::future::pending::<()>()).await {
            Err(StepError::ShuttingDown) => Err(RollbackError::Restarting),
            Err(StepError::Failed { .. }) | Ok(()) => Err(RollbackError::Failed(
                no_restart(script).rollback_failure_text(script),
            )),
            Err(stopped) => Err(RollbackError::Failed(stopped.rollback_failure_text(script))),
        }
    }

    /// Continues after the restart that `script` asked for: the scripts after it, then health as
    /// after a deploy.
    async fn finish_after_rollback_restart(
        &mut self,
        paths: &RollbackPaths,
        manifest: Manifest,
        script: &str,
    ) -> Result<(), String> {
        if clock::since_boot() >= self.deadline {
            return Err(no_restart(script).rollback_failure_text(script));
        }
        let release = paths.previous_release(manifest);
        // From here on a crash means that going back was cut off.
        self.begin_rollback(script).await?;
        let scripts = rollback_scripts(&release.manifest);
        let left = scripts
            .iter()
            .skip_while(|(name, _)| *name != script)
            .skip(1);
        for (name, script) in left {
            let run = release.run(Step::Rollback, name, script);
            let ended = self.run_begun(&run).await;
            ended.map_err(|stopped| stopped.rollback_failure_text(name))?;
        }
        match &release.manifest.health {
            Some(health) => {
                let shown = self.probe_until_healthy(&release, health).await;
                shown.map_err(|stopped| stopped.rollback_failure_text("health"))
            }
            None => Ok(()),
        }
    }

    /// The failed release, when it is still current because switching back failed.
    async fn still_current(&self, paths: &RollbackPaths) -> Option<ReleaseChange> {
        if activate::current(&paths.bundle_dir).ok()?.as_ref() != Some(&paths.from) {
            return None;
        }
        let release = Release {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            previous_digest: self.active_digest().await,
            folder: paths.from.clone(),
            previous_folder: paths.to.clone().unwrap_or_default(),
        };
        Some(ReleaseChange {
            name: self.deploy.name.clone(),
            release: Some(release),
        })
    }
}
