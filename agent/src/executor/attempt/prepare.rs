//! From a command to a release on the disk. All of it can be repeated, so the journal still says
//! `accepted`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use kernex_proto::{
    ids::Digest,
    v1::{FailureReason, Step},
};
use tokio_util::sync::CancellationToken;

use super::{Attempt, Prepared};
use crate::{
    bundle::{BundleDir, ReleaseMetadata, activate, archives, fetch::Fetch, folder_name, unpack},
    clock, durable,
    executor::{
        outcome::StepError,
        spans::{observed, step_span},
    },
};

/// Shortest pause between two progress reports of a download.
const PROGRESS_PAUSE: Duration = Duration::from_millis(250);

impl Attempt<'_> {
    /// Verifies and unpacks the bundle, from the archive that is kept or after a download; or uses
    /// the copy on the device.
    pub(super) async fn prepare(
        &self,
        archive: &Path,
        aside: &Path,
    ) -> Result<Prepared, StepError> {
        let (stop, shutdown) = (self.stops.work.clone(), self.executor.shutdown.clone());
        let halt = CancellationToken::new();
        let preparing = self.prepare_until(&halt, archive, aside);
        tokio::pin!(preparing);
        let why = tokio::select! {
            prepared = &mut preparing => return prepared,
            () = stop.cancelled() => StepError::Stopped,
            () = shutdown.cancelled() => StepError::ShuttingDown,
            () = clock::sleep_until(self.deadline) => StepError::failed(
                FailureReason::Download,
                "the bundle was not on the device within the execution time",
            ),
        };
        // A blocking thread writes files: wait until it has stopped before they are swept.
        halt.cancel();
        if let Ok(prepared) = preparing.await {
            discard(prepared).await;
        }
        Err(why)
    }

    async fn prepare_until(
        &self,
        halt: &CancellationToken,
        archive: &Path,
        aside: &Path,
    ) -> Result<Prepared, StepError> {
        let remover = &self.executor.shared.remover;
        let internal =
            |err: std::io::Error| StepError::internal("cannot use the state folder", &err);
        durable::create_private_dir(&remover.state_dir().join("tmp")).map_err(internal)?;
        let bundle_dir = BundleDir::open(remover, &self.deploy.name).map_err(internal)?;
        let digest: Digest = self
            .deploy
            .digest
            .parse()
            .map_err(|err| StepError::internal("the command is damaged", &err))?;
        let folder = folder_name(&self.deploy.version, digest, self.id);
        let previous = activate::current(&bundle_dir).map_err(internal)?;
        let metadata = ReleaseMetadata {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            order: self.record.accepted_seq,
        };
        if let Some(copy) = self.copy(&bundle_dir, &folder) {
            // It becomes the newest release, so that it is kept longer than those that came since.
            bundle_dir
                .write_metadata(&copy.folder, &metadata)
                .map_err(internal)?;
            tracing::info!(release = copy.folder, "using the copy on the device");
            return Ok(Prepared { previous, ..copy });
        }

        let was_here = self.lend(halt, &bundle_dir, digest, archive).await?;
        if !was_here {
            self.download(halt, digest, archive).await?;
        }
        self.report(Step::Unpack, 0);
        let place = unpack::Place {
            bundle_dir: &bundle_dir,
            folder: &folder,
            aside,
            limits: self.deploy.limits.into(),
            halt,
        };
        let unpacked = async { Ok(unpack::unpack(archive, &place, &metadata).await?) };
        let manifest = observed(step_span!("unpack"), unpacked).await?;
        self.keep(&bundle_dir, digest, archive).await;
        Ok(Prepared {
            bundle_dir,
            folder,
            previous,
            manifest,
            version: metadata.version,
            digest: metadata.digest,
            is_copy: false,
            was_here,
        })
    }

    /// Takes the archive that is kept on the device, if there is one and it is whole.
    async fn lend(
        &self,
        halt: &CancellationToken,
        bundle_dir: &BundleDir,
        digest: Digest,
        archive: &Path,
    ) -> Result<bool, StepError> {
        if archives::kept_bytes(bundle_dir, &self.deploy.digest).is_none() {
            return Ok(false);
        }
        self.report(Step::Verify, 0);
        let lent = async {
            archives::lend(bundle_dir, digest, archive, halt)
                .await
                .map_err(|err| StepError::internal("cannot use the archive on the device", &err))
        };
        let lent = observed(step_span!("verify"), lent).await?;
        if lent {
            tracing::info!(%digest, "using the archive on the device");
        }
        Ok(lent)
    }

    /// Keeps the archive for the next time. An attempt does not fail because that fails.
    async fn keep(&self, bundle_dir: &BundleDir, digest: Digest, archive: &Path) {
        let (bundle_dir, archive) = (bundle_dir.clone(), archive.to_owned());
        let remover = self.executor.shared.remover.clone();
        let setting = self.executor.config.max_archive_space;
        let kept = tokio::task::spawn_blocking(move || {
            let limit = archives::limit(&remover, setting);
            archives::keep(&bundle_dir, digest, &archive, limit)
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "cannot keep the archive; it would be downloaded again");
        }
    }

    async fn download(
        &self,
        halt: &CancellationToken,
        digest: Digest,
        archive: &Path,
    ) -> Result<(), StepError> {
        self.report(Step::Download, 0);
        let last = Mutex::new(Instant::now());
        let progress = |done| {
            let mut last = last.lock();
            if last.elapsed() >= PROGRESS_PAUSE || done == self.deploy.size_bytes {
                *last = Instant::now();
                self.report(Step::Download, done);
            }
        };
        let fetch = Fetch {
            digest,
            size: self.deploy.size_bytes,
            path: archive,
            remover: &self.executor.shared.remover,
            link: self.executor.shared.link.subscribe(),
            limit: self.executor.config.max_download_rate,
            progress: &progress,
        };
        let bytes = self.deploy.size_bytes;
        let fetched = async {
            let fetched = halt.run_until_cancelled(fetch.run()).await;
            fetched.ok_or(StepError::Stopped)??;
            Ok(())
        };
        observed(step_span!("download", bytes), fetched).await
    }

    /// The release that need not be fetched: the attempt's own from an earlier run, or the one that
    /// a rollback returns to.
    fn copy(&self, bundle_dir: &BundleDir, own: &str) -> Option<Prepared> {
        let folder = if self.record.run() > 1 && bundle_dir.holds(own, &self.deploy.digest) {
            own.to_owned()
        } else if self.deploy.go_back {
            bundle_dir.newest_of(&self.deploy.digest)?
        } else {
            return None;
        };
        let manifest = match bundle_dir.manifest(&folder) {
            Ok(manifest) => manifest,
            Err(why) => {
                tracing::warn!(release = folder, why, "the copy on the device is of no use");
                return None;
            }
        };
        Some(Prepared {
            bundle_dir: bundle_dir.clone(),
            is_copy: folder != own,
            // Its own may have been downloaded by an earlier run.
            was_here: folder != own,
            folder,
            previous: None,
            manifest,
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
        })
    }
}

/// Removes a release that was finished after its attempt had been stopped.
async fn discard(prepared: Prepared) {
    // A copy was there before the attempt, and the device may run it.
    if prepared.is_copy {
        return;
    }
    let removed = tokio::task::spawn_blocking(move || {
        activate::remove(&prepared.bundle_dir, &prepared.folder)
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, "could not remove a release that never ran");
    }
}
