//! One attempt from download to outcome, each step in the journal before it begins.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kernex_proto::{
    ids::{AttemptId, Digest},
    manifest::Manifest,
    v1::{self, FailureReason, Step},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Executor, Verdict, traceparent_or,
    verdict::{Break, after_script},
};
use crate::{
    bundle::{About, Shelf, activate, fetch::Fetch, folder_name, unpack},
    clock, durable,
    journal::{Record, Release, ReleaseChange, Started, Switch},
    sandbox::{Ended, Marker, Output, Script, environment},
};

/// Bytes of a download are told at most this often.
const PROGRESS_PAUSE: Duration = Duration::from_millis(250);
/// Execution time of a command that does not say.
const DEFAULT_EXECUTION: Duration = Duration::from_secs(3600);

/// One attempt at work.
pub(super) struct Attempt<'a> {
    executor: &'a Executor,
    id: AttemptId,
    record: &'a Record,
    deploy: &'a v1::Deploy,
    stop: CancellationToken,
    output: Output,
    /// Of the last script that exited.
    exit_code: Option<i32>,
    accepted_at: Duration,
    deadline: Duration,
}

/// A release that is unpacked.
struct Prepared {
    shelf: Shelf,
    folder: String,
    previous: Option<String>,
    manifest: Manifest,
}

impl<'a> Attempt<'a> {
    /// An attempt about to run.
    pub(super) fn new(
        executor: &'a Executor,
        id: AttemptId,
        record: &'a Record,
        deploy: &'a v1::Deploy,
        stop: CancellationToken,
    ) -> Self {
        // After a reboot the old instant means nothing; the time starts anew.
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
            stop,
            output: Output::default(),
            exit_code: None,
            accepted_at,
            deadline: accepted_at.saturating_add(execution),
        }
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self) -> Verdict {
        let tmp = self.executor.config.state_dir.join("tmp");
        let archive = tmp.join(format!("{}.bundle", self.id.target));
        let aside = tmp.join(format!("{}.unpacked", self.id.target));
        let prepared = self.prepare(&archive, &aside).await;
        let swept = tokio::task::spawn_blocking(move || {
            durable::discard(&archive);
            durable::discard(&aside);
        });
        let _ = swept.await;
        let (result, change) = match prepared {
            // Nothing has begun that could not begin again.
            Err(Break::ShuttingDown) => return Verdict::Later,
            Err(stopped) => (Err(stopped), None),
            Ok(prepared) => {
                let result = self.execute(&prepared).await;
                self.settle(&prepared, result).await
            }
        };
        let mut outcome = match result {
            Ok(()) => v1::Outcome {
                state: v1::AttemptState::Succeeded.into(),
                exit_code: self.exit_code,
                ..v1::Outcome::default()
            },
            Err(stopped) => stopped.into_outcome(),
        };
        outcome.output_tail = self.output.into_text();
        outcome.duration_ms = millis(clock::since_boot().saturating_sub(self.accepted_at));
        Verdict::Over(Box::new(outcome), change)
    }

    /// Download, verification and unpacking: repeatable, so the journal still says `accepted`.
    async fn prepare(&self, archive: &Path, aside: &Path) -> Result<Prepared, Break> {
        let (stop, shutdown) = (self.stop.clone(), self.executor.shutdown.clone());
        tokio::select! {
            prepared = self.prepare_undisturbed(archive, aside) => prepared,
            () = stop.cancelled() => Err(Break::Stopped),
            () = shutdown.cancelled() => Err(Break::ShuttingDown),
            () = clock::sleep_until(self.deadline) => Err(Break::failed(
                FailureReason::Download,
                "the bundle was not on the device within the execution time",
            )),
        }
    }

    async fn prepare_undisturbed(&self, archive: &Path, aside: &Path) -> Result<Prepared, Break> {
        let state_dir = &self.executor.config.state_dir;
        let internal = |err: std::io::Error| Break::internal("cannot use the state folder", &err);
        durable::create_dir(&state_dir.join("tmp")).map_err(internal)?;
        let shelf = Shelf::open(state_dir, &self.deploy.name).map_err(internal)?;
        let digest: Digest = self
            .deploy
            .digest
            .parse()
            .map_err(|err| Break::internal("the command is damaged", &err))?;

        self.report(Step::Download, 0);
        let last = Mutex::new(Instant::now());
        let progress = |done| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= PROGRESS_PAUSE || done == self.deploy.size_bytes {
                *last = Instant::now();
                self.report(Step::Download, done);
            }
        };
        let fetch = Fetch {
            digest,
            size: self.deploy.size_bytes,
            path: archive,
            state_dir,
            link: self.executor.wires.link.subscribe(),
            progress: &progress,
        };
        fetch
            .run()
            .instrument(tracing::info_span!(
                "download",
                bytes = self.deploy.size_bytes
            ))
            .await?;

        self.report(Step::Unpack, 0);
        let folder = folder_name(&self.deploy.version, digest, self.id);
        let about = About {
            version: self.deploy.version.clone(),
            digest: self.deploy.digest.clone(),
            order: self.record.accepted_seq,
        };
        let place = unpack::Place {
            state_dir,
            shelf: &shelf,
            folder: &folder,
            aside,
        };
        let manifest = unpack::unpack(archive, &place, &about)
            .instrument(tracing::info_span!("unpack"))
            .await?;
        let previous = activate::current(&shelf).map_err(internal)?;
        Ok(Prepared {
            shelf,
            folder,
            previous,
            manifest,
        })
    }

    /// Hooks, script and switch: none of it is ever repeated.
    async fn execute(&mut self, prepared: &Prepared) -> Result<(), Break> {
        if let Some(pre) = &prepared.manifest.hooks.pre {
            self.script(prepared, Step::PreHook, pre).await?;
        }
        if let Some(script) = prepared.manifest.script() {
            self.script(prepared, Step::Script, script).await?;
        }
        self.begin(Step::Activate).await?;
        let switch = Switch {
            to: prepared.folder.clone(),
            from: prepared.previous.clone().unwrap_or_default(),
        };
        let id = self.id;
        self.executor
            .journal
            .call(move |journal| journal.switching(id, switch))
            .await
            .map_err(|err| Break::internal("cannot write to the journal", &err))?;
        activate::switch(&prepared.shelf, Some(&prepared.folder))
            .map_err(|err| Break::internal("cannot switch to the release", &err))?;
        if let Some(post) = &prepared.manifest.hooks.post {
            self.script(prepared, Step::PostHook, post).await?;
        }
        Ok(())
    }

    /// Journals that a step begins. Fails when the attempt was ended meanwhile.
    async fn begin(&self, step: Step) -> Result<(), Break> {
        let (id, started) = (self.id, started(step));
        let may = self
            .executor
            .journal
            .call(move |journal| journal.start(id, started))
            .await
            .map_err(|err| Break::internal("cannot write to the journal", &err))?;
        if !may {
            return Err(Break::Stopped);
        }
        self.report(step, 0);
        Ok(())
    }

    async fn script(&mut self, prepared: &Prepared, step: Step, script: &str) -> Result<(), Break> {
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

    /// Makes the disk fit the result: a failure after the switch switches back, a failed release goes.
    async fn settle(
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
        let known = self.executor.journal.call(super::Journal::releases).await;
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

    /// Tells how far it is; only the newest matters.
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
        };
        self.executor.wires.progress.send_replace(Some(v1::Report {
            attempt: Some(self.id.into()),
            seq: 0,
            event: Some(v1::report::Event::Progress(progress)),
            traceparent: String::new(),
        }));
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
