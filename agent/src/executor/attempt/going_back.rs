//! Going back: the release before is current again, and its scripts bring it back to work.
//!
//! What failed is in the journal before anything is undone, so a crash anywhere in here is followed
//! by the same steps, except that a script that had begun is not run again.
//!
//! It is a step of its own, with as much time as the deploy had, and it takes an order of its own
//! to stop it: then the release before is current and its script is unfinished.

use std::time::Duration;

use kernex_proto::{
    manifest::Manifest,
    v1::{self, Step},
};

use super::{Attempt, Prepared, no_restart, on_this_boot};
use crate::{
    bundle::{BundleDir, activate},
    clock,
    executor::{
        Verdict,
        verdict::{After, Back, Break, returned},
    },
    journal::{Release, ReleaseChange, Returning},
    sandbox::Output,
};

/// Where to go back from, and to.
pub(super) struct Way {
    pub(super) bundle_dir: BundleDir,
    /// Folder of the release that failed.
    pub(super) from: String,
    /// Folder of the release before.
    pub(super) to: Option<String>,
    /// The folder that failed was there before this attempt, and stays.
    pub(super) keep: bool,
}

impl Way {
    /// The release before, to run its scripts in.
    fn release_before(&self, manifest: Manifest) -> Prepared {
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
        }
    }
}

/// The scripts that bring a release back to work, each with its name in the manifest.
pub(in crate::executor) fn scripts_of(manifest: &Manifest) -> Vec<(&'static str, String)> {
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

/// What keeps a device from having gone back.
enum Setback {
    /// Something failed, in words.
    Failed(String),
    /// A restart; the journal has what follows it.
    Restarting,
}

impl Attempt<'_> {
    /// Goes back after `outcome`, which is what the attempt ends with if that goes well.
    pub(super) async fn go_back(&mut self, way: Way, mut outcome: v1::Outcome) -> Verdict {
        outcome.output_tail = self.output.text();
        self.begin_going_back(clock::since_boot().saturating_add(self.execution));
        let (id, failing) = (self.id, outcome.clone());
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.failing(id, failing))
            .await;
        if let Err(error) = noted {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot note that the device goes back");
        }
        self.report(Step::Rollback, 0);
        let mut change = None;
        let back = match self.undo(&way).await {
            Ok(None) => Back::Nothing,
            Ok(Some(manifest)) => {
                // After the next start it is the first thing to be done.
                if !scripts_of(&manifest).is_empty() && self.executor.shutdown.is_cancelled() {
                    return Verdict::Later;
                }
                let version = manifest.version.clone();
                match self.bring_back(&way, manifest).await {
                    Ok(()) => Back::To(version),
                    Err(Setback::Restarting) => return Verdict::Later,
                    Err(Setback::Failed(why)) => Back::Failed(version, why),
                }
            }
            Err(err) => {
                change = self.still_current(&way).await;
                Back::Failed(String::new(), err.to_string())
            }
        };
        self.gone_back(way, outcome, &back, change).await
    }

    /// Goes on with going back after `outcome`, once the restart that a script of it asked for has
    /// come.
    pub(super) async fn after_return(
        &mut self,
        returning: Returning,
        outcome: v1::Outcome,
    ) -> Verdict {
        tracing::info!("going on with going back after the restart");
        self.output = Output::default();
        self.output.push(returning.output.as_bytes());
        let usual = clock::since_boot().saturating_add(self.execution);
        let kept = returning.deadline.as_ref().map(on_this_boot);
        self.begin_going_back(kept.unwrap_or(usual).min(usual));
        let way = match self.way() {
            Ok(way) => way,
            Err(err) => {
                let back = Back::Failed(String::new(), err.to_string());
                return Verdict::Over(Box::new(returned(outcome, &back)), None);
            }
        };
        let mut change = None;
        let back = match self.undo(&way).await {
            Ok(None) => Back::Nothing,
            Ok(Some(manifest)) => {
                let version = manifest.version.clone();
                match self.prove_return(&way, manifest, &returning.script).await {
                    Ok(()) => Back::To(version),
                    Err(why) => Back::Failed(version, why),
                }
            }
            Err(err) => {
                change = self.still_current(&way).await;
                Back::Failed(String::new(), err.to_string())
            }
        };
        self.gone_back(way, outcome, &back, change).await
    }

    /// Nothing of the deploy runs any more, and going back has time of its own.
    fn begin_going_back(&mut self, deadline: Duration) {
        self.is_going_back = true;
        self.deadline = deadline;
        self.executor.shared.mark_work_ended(self.id);
    }

    async fn gone_back(
        &mut self,
        way: Way,
        outcome: v1::Outcome,
        back: &Back,
        change: Option<ReleaseChange>,
    ) -> Verdict {
        if !way.keep {
            let swept =
                tokio::task::spawn_blocking(move || activate::remove(&way.bundle_dir, &way.from));
            if let Ok(Err(error)) = swept.await {
                tracing::warn!(%error, "cannot remove the release that failed");
            }
        }
        let mut outcome = returned(outcome, back);
        outcome.output_tail = self.output.text();
        Verdict::Over(Box::new(outcome), change)
    }

    /// Makes the release before current; its manifest says what brings it back to work.
    async fn undo(&self, way: &Way) -> std::io::Result<Option<Manifest>> {
        let (bundle_dir, from, to) = (way.bundle_dir.clone(), way.from.clone(), way.to.clone());
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

    /// Runs what brings the release before back to work.
    async fn bring_back(&mut self, way: &Way, manifest: Manifest) -> Result<(), Setback> {
        let scripts = scripts_of(&manifest);
        let Some((first, _)) = scripts.first() else {
            return Ok(());
        };
        let release = way.release_before(manifest);
        if let Err(why) = self.begin_rollback(first).await {
            return Err(Setback::Failed(why));
        }
        for (name, script) in &scripts {
            match self
                .run_begun(&release.run(Step::Rollback, name, script))
                .await
            {
                Ok(After::Next) => {}
                Ok(After::Restart) => return self.await_return(name).await,
                Err(stopped) => return Err(Setback::Failed(stopped.of_going_back(name))),
            }
        }
        Ok(())
    }

    async fn begin_rollback(&mut self, script: &str) -> Result<(), String> {
        match self.begin(Step::Rollback).await {
            Ok(()) => Ok(()),
            Err(Break::Stopped) => Err(format!("stopped by an operator before {script} was done")),
            Err(failed) => Err(failed.of_going_back(script)),
        }
    }

    /// A script of going back has arranged for a restart: what comes after it is in the journal,
    /// and the agent is not to go on before.
    async fn await_return(&self, script: &str) -> Result<(), Setback> {
        let returning = Returning {
            script: script.to_owned(),
            output: self.output.text(),
            deadline: Some(self.kept_deadline()),
        };
        let id = self.id;
        let noted = self
            .executor
            .journal
            .call(move |journal| journal.returning(id, returning))
            .await;
        if let Err(err) = noted {
            let stopped = Break::internal("cannot write to the journal", &err);
            return Err(Setback::Failed(stopped.of_going_back(script)));
        }
        tracing::info!(script, "waiting for the restart that going back asked for");
        match self.undisturbed(std::future::pending::<()>()).await {
            Err(Break::ShuttingDown) => Err(Setback::Restarting),
            Err(Break::Failed { .. }) | Ok(()) => {
                Err(Setback::Failed(no_restart(script).of_going_back(script)))
            }
            Err(stopped) => Err(Setback::Failed(stopped.of_going_back(script))),
        }
    }

    /// What comes after the restart that `script` asked for: the scripts after it, and health as
    /// after a deploy.
    async fn prove_return(
        &mut self,
        way: &Way,
        manifest: Manifest,
        script: &str,
    ) -> Result<(), String> {
        if clock::since_boot() >= self.deadline {
            return Err(no_restart(script).of_going_back(script));
        }
        let release = way.release_before(manifest);
        // From here on a crash is one in the middle of going back.
        self.begin_rollback(script).await?;
        let scripts = scripts_of(&release.manifest);
        let left = scripts
            .iter()
            .skip_while(|(name, _)| *name != script)
            .skip(1);
        for (name, script) in left {
            let run = release.run(Step::Rollback, name, script);
            let ended = self.run_begun(&run).await;
            ended.map_err(|stopped| stopped.of_going_back(name))?;
        }
        match &release.manifest.health {
            Some(health) => {
                let shown = self.watch(&release, health).await;
                shown.map_err(|stopped| stopped.of_going_back("health"))
            }
            None => Ok(()),
        }
    }

    /// The release that failed could not be left: that is what runs.
    async fn still_current(&self, way: &Way) -> Option<ReleaseChange> {
        if activate::current(&way.bundle_dir).ok()?.as_ref() != Some(&way.from) {
            return None;
        }
        let release = Release {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            previous_digest: self.active_digest().await,
            folder: way.from.clone(),
            previous_folder: way.to.clone().unwrap_or_default(),
        };
        Some(ReleaseChange {
            name: self.deploy.name.clone(),
            release: Some(release),
        })
    }
}
