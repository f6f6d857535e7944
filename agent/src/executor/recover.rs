//! After a crash: what was cut off is ended, undone and reported, never run again.

use kernex_proto::{
    ids::{AttemptId, Digest},
    v1,
};

use super::{Executor, verdict::Break};
use crate::{
    bundle::{self, Shelf, activate, folder_name},
    clock, durable,
    journal::{Journal, JournalError, Record},
    sandbox::{Marker, kill_leftovers},
};

/// Ends every attempt that had begun, sweeps temporary files and checks what is current.
pub(super) async fn recover(executor: &Executor) -> Result<(), JournalError> {
    for (id, record) in executor.journal.call(Journal::live).await? {
        if record.state() == v1::AttemptState::Running {
            interrupted(executor, id, &record).await?;
        }
    }
    let state_dir = executor.config.state_dir.clone();
    executor
        .journal
        .call(move |journal| {
            durable::discard(&state_dir.join("tmp"));
            durable::sweep(&state_dir);
            bundle::reconcile(&state_dir, journal)
        })
        .await
}

async fn interrupted(
    executor: &Executor,
    id: AttemptId,
    record: &Record,
) -> Result<(), JournalError> {
    tracing::warn!(command = %id, "was cut off; ending it");
    let started = record.started.clone().unwrap_or_default();
    // After a reboot its processes are gone, and the ids belong to others.
    if started.boot_id == clock::boot_id() {
        kill_leftovers(started.pid, started.start_ticks, Marker::new(id)).await;
    }
    let deploy = record.deploy().cloned().unwrap_or_default();
    let stopped = if record.stop_requested {
        Break::Stopped
    } else {
        let step = crate::sandbox::environment::step_name(started.step());
        Break::failed(
            v1::FailureReason::Interrupted,
            format!("the agent or the machine stopped during the step {step}"),
        )
    };
    let state_dir = executor.config.state_dir.clone();
    let switch = record.switch.clone();
    executor
        .journal
        .call(move |journal| {
            let stopped = match undo(&state_dir, id, &deploy, switch.as_ref()) {
                Ok(()) => stopped,
                Err(err) => Break::failed(
                    v1::FailureReason::RollbackFailed,
                    format!("interrupted; then going back to the previous release failed: {err}"),
                ),
            };
            // The outcome says what is current, so that has to be right first.
            bundle::reconcile(&state_dir, journal)?;
            journal.finish(id, stopped.into_outcome(), None, String::new())
        })
        .await
}

/// Goes back to the release before the switch, if the switch happened, and removes the new one.
fn undo(
    state_dir: &std::path::Path,
    id: AttemptId,
    deploy: &v1::Deploy,
    switch: Option<&crate::journal::Switch>,
) -> std::io::Result<()> {
    let shelf = Shelf::open(state_dir, &deploy.name)?;
    if let Some(switch) = switch
        && activate::current(&shelf)?.as_ref() == Some(&switch.to)
    {
        let from = Some(switch.from.as_str()).filter(|from| !from.is_empty());
        activate::switch(&shelf, from)?;
    }
    if let Ok(digest) = deploy.digest.parse::<Digest>() {
        activate::remove(&shelf, &folder_name(&deploy.version, digest, id))?;
    }
    Ok(())
}
