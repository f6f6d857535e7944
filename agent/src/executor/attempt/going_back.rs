//! Going back: the release before is current again, and its scripts bring it back to work.
//!
//! What failed is in the journal before anything is undone, so a crash anywhere in here is followed by the same steps,
//! except that a script that had begun is not run again.

use kernex_proto::{
    manifest::Manifest,
    v1::{self, Step},
};

use super::{Attempt, scripts::Run};
use crate::{
    bundle::{Shelf, activate},
    executor::{
        Verdict,
        verdict::{Back, Break, returned},
    },
    journal::{Release, ReleaseChange},
};

/// Where to go back from, and to.
pub(super) struct Way {
    pub(super) shelf: Shelf,
    /// Folder of the release that failed.
    pub(super) from: String,
    /// Folder of the release before.
    pub(super) to: Option<String>,
    /// The folder that failed was there before this attempt, and stays.
    pub(super) keep: bool,
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

impl Attempt<'_> {
    /// Goes back after `outcome`, which is what the attempt ends with if that goes well.
    pub(super) async fn go_back(&mut self, way: Way, mut outcome: v1::Outcome) -> Verdict {
        outcome.output_tail = self.output.text();
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
        let mut change = None;
        let back = match self.undo(&way).await {
            Ok(None) => Back::Nothing,
            Ok(Some((version, scripts))) => {
                // After the next start it is the first thing to be done.
                if !scripts.is_empty() && self.executor.shutdown.is_cancelled() {
                    return Verdict::Later;
                }
                match self.bring_back(&way, &scripts).await {
                    Ok(()) => Back::To(version),
                    Err(why) => Back::Failed(version, why),
                }
            }
            Err(err) => {
                change = self.still_current(&way).await;
                Back::Failed(String::new(), err.to_string())
            }
        };
        if !way.keep {
            let swept =
                tokio::task::spawn_blocking(move || activate::remove(&way.shelf, &way.from));
            if let Ok(Err(error)) = swept.await {
                tracing::warn!(%error, "cannot remove the release that failed");
            }
        }
        outcome = returned(outcome, &back);
        outcome.output_tail = self.output.text();
        Verdict::Over(Box::new(outcome), change)
    }

    /// Makes the release before current, and says what brings it back to work.
    async fn undo(
        &self,
        way: &Way,
    ) -> std::io::Result<Option<(String, Vec<(&'static str, String)>)>> {
        let (shelf, from, to) = (way.shelf.clone(), way.from.clone(), way.to.clone());
        tokio::task::spawn_blocking(move || {
            if activate::current(&shelf)?.as_ref() == Some(&from) && to.as_ref() != Some(&from) {
                activate::switch(&shelf, to.as_deref())?;
            }
            let Some(to) = to else {
                return Ok(None);
            };
            let manifest = shelf.manifest(&to).map_err(std::io::Error::other)?;
            Ok(Some((manifest.version.clone(), scripts_of(&manifest))))
        })
        .await
        .unwrap_or_else(|err| Err(std::io::Error::other(err)))
    }

    async fn bring_back(
        &mut self,
        way: &Way,
        scripts: &[(&'static str, String)],
    ) -> Result<(), String> {
        let Some(to) = way.to.as_ref().filter(|_| !scripts.is_empty()) else {
            return Ok(());
        };
        let manifest = way.shelf.manifest(to)?;
        let about = way.shelf.about(to).unwrap_or_default();
        self.begin(Step::Rollback)
            .await
            .map_err(|stopped| stopped.into_outcome().message)?;
        for (name, script) in scripts {
            let run = Run {
                step: Step::Rollback,
                name,
                script,
                shelf: &way.shelf,
                folder: to,
                previous: Some(&way.from),
                manifest: &manifest,
                version: &manifest.version,
                digest: &about.digest,
            };
            self.run_begun(&run)
                .await
                .map_err(|stopped: Break| stopped.into_outcome().message)?;
        }
        Ok(())
    }

    /// The release that failed could not be left: that is what runs.
    async fn still_current(&self, way: &Way) -> Option<ReleaseChange> {
        if activate::current(&way.shelf).ok()?.as_ref() != Some(&way.from) {
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
