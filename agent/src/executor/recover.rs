//! After a crash: what was cut off is ended and undone, never run again. Attempts that go back with
//! a script, or continue after a restart, are left to the executor, which begins only after a
//! session has confirmed this agent.

use kernex_proto::{
    ids::{AttemptId, Digest},
    v1::{self, Step},
    words,
};

use super::{
    Executor,
    attempt::rollback_scripts,
    outcome::{RollbackResult, StepError, with_rollback_result},
};
use crate::{
    bundle::{self, BundleDir, activate, archives, folder_name},
    clock, durable,
    journal::{Journal, JournalError, Record, Stage},
    removal::Remover,
    sandbox::{Marker, kill_interrupted, running_scripts},
};

/// Ends every attempt that had begun, sweeps temporary files and checks what is current.
pub(super) async fn recover(executor: &Executor) -> Result<(), JournalError> {
    end_strays(executor).await?;
    for (id, record) in executor.journal.call(Journal::live).await? {
        match record.stage() {
            Some(Stage::CutOff) => interrupted(executor, id, record).await?,
            Some(Stage::GoingBack(_)) => kill(id, &record).await,
            // A process that the script left running may be the one that restarts the machine or
            // the agent.
            Some(Stage::Restarted(_) | Stage::Returning(..) | Stage::Fresh | Stage::Deferred)
            | None => {}
        }
    }
    let remover = executor.shared.remover.clone();
    let setting = executor.config.max_archive_space;
    executor
        .journal
        .call(move |journal| {
            // What cannot be removed is remembered, and heartbeats report it.
            let _ = remover.sweep();
            durable::sweep(remover.state_dir());
            if let Err(error) = bundle::retry_removals(&remover) {
                tracing::warn!(%error, "cannot look for old releases");
            }
            bundle::reconcile(&remover, journal)?;
            archives::tidy(&remover, archives::limit(&remover, setting));
            Ok(())
        })
        .await
}

/// Kills scripts that the journal does not know. A journal that was set aside had begun them; their
/// attempts will end as `journal_lost`.
async fn end_strays(executor: &Executor) -> Result<(), JournalError> {
    let (device, state_dir) = (executor.identity.device, executor.config.state_dir.clone());
    let running = tokio::task::spawn_blocking(move || running_scripts(device, &state_dir));
    for script in running.await.unwrap_or_default() {
        let id = script.id;
        let known = executor
            .journal
            .call(move |journal| journal.get(id))
            .await?;
        if known.is_some() {
            continue;
        }
        tracing::error!(
            command = %id,
            pid = script.pid(),
            step = script.step,
            bundle = script.bundle,
            "A SCRIPT RUNS THAT THE JOURNAL DOES NOT KNOW; killing it with everything it started"
        );
        script.kill().await;
    }
    Ok(())
}

async fn kill(id: AttemptId, record: &Record) {
    let started = record.started.clone().unwrap_or_default();
    // After a reboot its processes are gone, and their ids belong to others.
    if started.boot_id == clock::boot_id() {
        kill_interrupted(started.pid, started.start_ticks, Marker::new(id)).await;
    }
}

async fn interrupted(
    executor: &Executor,
    id: AttemptId,
    record: Record,
) -> Result<(), JournalError> {
    tracing::warn!(command = %id, "was cut off; ending it");
    kill(id, &record).await;
    let remover = executor.shared.remover.clone();
    executor
        .journal
        .call(move |journal| {
            let failing = failing(&record);
            let step = record.started.clone().unwrap_or_default().step();
            let outcome = match restore_current(&remover, id, &record) {
                // A rollback script was cut off itself.
                Ok(restored) if step == Step::Rollback => {
                    let version = restored.map_or_else(String::new, |restored| restored.version);
                    let why = match record
                        .started
                        .as_ref()
                        .map(|started| started.script.as_str())
                    {
                        None | Some("") => "the agent or the machine stopped during it".to_owned(),
                        Some(script) => format!(
                            "{script} is unfinished, because the agent or the machine stopped"
                        ),
                    };
                    with_rollback_result(failing, &RollbackResult::Failed(version, why))
                }
                Ok(_) if step == Step::PreHook => failing,
                // The executor runs the scripts of the previous release.
                Ok(Some(restored)) if restored.has_scripts => {
                    return journal.note_failure(id, failing);
                }
                Ok(Some(restored)) => {
                    with_rollback_result(failing, &RollbackResult::To(restored.version))
                }
                Ok(None) => with_rollback_result(failing, &RollbackResult::Nothing),
                Err(err) => with_rollback_result(
                    failing,
                    &RollbackResult::Failed(String::new(), err.to_string()),
                ),
            };
            discard(&remover, id, &record)?;
            // The outcome says what is current, so that has to be right first.
            bundle::reconcile(&remover, journal)?;
            journal.finish(id, outcome, None, String::new())
        })
        .await
}

/// The outcome of the attempt before it is known how going back ends.
fn failing(record: &Record) -> v1::Outcome {
    if let Some(failing) = &record.failing {
        return failing.clone();
    }
    let stopped = if record.stop_requested {
        StepError::Stopped
    } else {
        let step = record.started.clone().unwrap_or_default().step();
        StepError::failed(
            v1::FailureReason::Interrupted,
            format!(
                "the agent or the machine stopped during the step {}",
                words::step(step)
            ),
        )
    };
    stopped.into_outcome()
}

/// The release that is current again.
struct Restored {
    version: String,
    has_scripts: bool,
}

/// Switches back to the previous release, if the switch happened, and returns what is current.
fn restore_current(
    remover: &Remover,
    id: AttemptId,
    record: &Record,
) -> std::io::Result<Option<Restored>> {
    let deploy = record.deploy().cloned().unwrap_or_default();
    let bundle_dir = BundleDir::open(remover, &deploy.name)?;
    if let Some(switch) = &record.switch
        && switch.from != switch.to
        && activate::current(&bundle_dir)?.as_ref() == Some(&switch.to)
    {
        tracing::info!(command = %id, "switching back");
        let from = Some(switch.from.as_str()).filter(|from| !from.is_empty());
        activate::switch(&bundle_dir, from)?;
    }
    let Some(current) = activate::current(&bundle_dir)? else {
        return Ok(None);
    };
    let manifest = bundle_dir
        .manifest(&current)
        .map_err(std::io::Error::other)?;
    Ok(Some(Restored {
        has_scripts: !rollback_scripts(&manifest).is_empty(),
        version: manifest.version,
    }))
}

/// Removes the release of the attempt.
fn discard(remover: &Remover, id: AttemptId, record: &Record) -> std::io::Result<()> {
    let deploy = record.deploy().cloned().unwrap_or_default();
    let bundle_dir = BundleDir::open(remover, &deploy.name)?;
    if let Ok(digest) = deploy.digest.parse::<Digest>() {
        activate::remove(&bundle_dir, &folder_name(&deploy.version, digest, id))?;
    }
    Ok(())
}
