//! One attempt from download to outcome, each step in the journal before it begins.

use std::{
    path::Path,
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

use super::{Executor, Verdict, verdict::Break};
use crate::{
    bundle::{About, Shelf, activate, fetch::Fetch, folder_name, unpack},
    clock, durable,
    journal::{Record, Started, Switch},
    sandbox::Output,
};

mod scripts;
mod settle;

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
        let halt = CancellationToken::new();
        let preparing = self.prepare_until(&halt, archive, aside);
        tokio::pin!(preparing);
        let why = tokio::select! {
            prepared = &mut preparing => return prepared,
            () = stop.cancelled() => Break::Stopped,
            () = shutdown.cancelled() => Break::ShuttingDown,
            () = clock::sleep_until(self.deadline) => Break::failed(
                FailureReason::Download,
                "the bundle was not on the device within the execution time",
            ),
        };
        // Files are written off the event loop, so they must come to rest before anybody sweeps them.
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
    ) -> Result<Prepared, Break> {
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
        let fetched = fetch.run().instrument(tracing::info_span!(
            "download",
            bytes = self.deploy.size_bytes
        ));
        let fetched = halt.run_until_cancelled(fetched).await;
        fetched.ok_or(Break::Stopped)??;

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
            halt,
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

/// Removes a release that was finished just when nobody wanted it any more.
async fn discard(prepared: Prepared) {
    let removed =
        tokio::task::spawn_blocking(move || activate::remove(&prepared.shelf, &prepared.folder));
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, "could not remove a release that never ran");
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
