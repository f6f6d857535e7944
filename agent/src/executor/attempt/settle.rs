//! After the last step: the disk is made to fit the result, and the journal learns what is current.

use kernex_proto::v1::FailureReason;

use super::{Attempt, Prepared};
use crate::{
    bundle::activate,
    executor::verdict::Break,
    journal::{Journal, Release, ReleaseChange},
};

impl Attempt<'_> {
    /// Makes the disk fit the result: a failure after the switch switches back, a failed release goes.
    pub(super) async fn settle(
        &self,
        prepared: &Prepared,
        result: Result<(), Break>,
    ) -> (Result<(), Break>, Option<ReleaseChange>) {
        if result.is_ok() {
            return (result, Some(self.activated(prepared).await));
        }
        let (shelf, folder) = (prepared.shelf.clone(), prepared.folder.clone());
        let previous = prepared.previous.clone();
        let undone = tokio::task::spawn_blocking(move || {
            if activate::current(&shelf)?.as_ref() == Some(&folder) {
                activate::switch(&shelf, previous.as_deref())?;
            }
            activate::remove(&shelf, &folder)
        })
        .await
        .unwrap_or_else(|err| Err(std::io::Error::other(err)));
        match undone {
            Ok(()) => (result, None),
            Err(err) => {
                let what = result.err().map(|stopped| stopped.into_outcome().message);
                let message = format!(
                    "{}; then going back to the previous release failed: {err}",
                    what.unwrap_or_default()
                );
                let failed = Break::failed(FailureReason::RollbackFailed, message);
                (Err(failed), Some(self.activated(prepared).await))
            }
        }
    }

    async fn activated(&self, prepared: &Prepared) -> ReleaseChange {
        let name = self.deploy.name.clone();
        let known = self.executor.journal.call(Journal::releases).await;
        let before = known
            .unwrap_or_default()
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, release)| release.digest);
        let release = Release {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            previous_digest: before.unwrap_or_default(),
            folder: prepared.folder.clone(),
            previous_folder: prepared.previous.clone().unwrap_or_default(),
        };
        ReleaseChange {
            name,
            release: Some(release),
        }
    }
}
