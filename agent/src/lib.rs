//! The agent of Kernex.
//!
//! The way of a command: the [`session`] receives it and writes it into the [`journal`]. The
//! [`executor`] finds it there, fetches and unpacks the [`bundle`], runs its scripts in the
//! [`sandbox`], switches `current` and writes the outcome into the journal. The session sends the
//! outcome until it is acknowledged. Between session and executor there are only hints
//! ([`shared`]): whatever must not be lost is on disk first. The words are explained in
//! `docs/glossary.md`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use kernex_proto::handshake::EnrollmentToken;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod backoff;
mod bundle;
mod channel;
mod clock;
mod config;
mod crash;
mod disk;
mod doctor;
mod durable;
mod enrollment;
mod executor;
mod health;
mod host;
mod identity;
pub mod journal;
mod link;
mod preflight;
mod private;
mod program;
mod removal;
mod revoked;
mod sandbox;
mod servers;
mod session;
mod settings;
mod shared;
mod start;
mod status;
mod support;

pub use config::{Args, Command, Config, NoNewPrivs};
pub use identity::{DeviceKey, Identity, IdentityError};
pub use program::main;

use enrollment::KeyChoice;
use executor::Executor;
use journal::Journal;
use removal::Remover;
use sandbox::{Reaper, Sandbox};
use servers::Servers;
use session::Sessions;
use settings::Settings;
use shared::Shared;

/// How long background readers may take to end.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Enrols this machine and writes its identity into the state folder. Safe to repeat.
pub async fn enroll(config: &Config, token: &EnrollmentToken) -> anyhow::Result<Identity> {
    private::restrict_state_dir(&config.state_dir).with_context(|| unusable(config))?;
    Box::pin(enrollment::enroll(config, token, KeyChoice::Existing)).await
}

/// Enrols this machine with a new key, as a new device, whatever device it was before.
pub async fn enroll_anew(config: &Config, token: &EnrollmentToken) -> anyhow::Result<Identity> {
    private::restrict_state_dir(&config.state_dir).with_context(|| unusable(config))?;
    Box::pin(enrollment::enroll(config, token, KeyChoice::New)).await
}

fn unusable(config: &Config) -> String {
    format!("cannot use the state folder {}", config.state_dir.display())
}

/// Runs the agent until `shutdown`; enrols first when needed and a token is given.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Err(error) = private::restrict_state_dir(&config.state_dir) {
        // A read-only disk is waited for below.
        tracing::warn!(%error, "cannot see to it that the state folder is private");
    }
    // An agent that waits for its network or its disk does not give up: only a reboot would start
    // it again.
    let Some((mut identity, key, journal)) = start::start(&config, &shutdown).await? else {
        return Ok(());
    };
    if config.allow_downgrade && identity.protocol_revision > 0 {
        tracing::warn!(
            before = identity.protocol_revision,
            "--allow-downgrade: an older revision of the session protocol is accepted once more; remove the flag again"
        );
        identity.protocol_revision = 0;
        if let Err(error) = Identity::remember_revision(&config.state_dir, 0) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot save that an older revision is allowed");
        }
    }
    let kept = journal.call(Journal::configuration).await?;
    let settings = Settings::from_journal(&config, kept.as_ref());
    let remover = Remover::new(&config.state_dir);
    let shared = Arc::new(Shared::new(&identity.name, settings, remover));
    let tasks = TaskTracker::new();
    let closing = CancellationToken::new();
    let executor = Executor {
        sandbox: Sandbox::new(tasks.clone(), closing.clone()),
        config: config.clone(),
        identity: identity.clone(),
        journal: journal.clone(),
        shared: Arc::clone(&shared),
        shutdown: shutdown.clone(),
    };
    executor
        .recover()
        .await
        .context("cannot bring in order what was cut off")?;
    let sessions = Sessions {
        servers: Servers::new(&config, &identity),
        config,
        identity,
        key,
        journal,
        shared,
    };
    let result = supervise(executor, sessions, &shutdown, &closing).await;
    closing.cancel();
    tasks.close();
    let _ = tokio::time::timeout(LAST_TASKS, tasks.wait()).await;
    tracing::info!("stopped");
    result
}

/// Waits for the parts of the agent. The executor ends first, so that the session can still send
/// its last outcome.
async fn supervise(
    executor: Executor,
    sessions: Sessions,
    shutdown: &CancellationToken,
    closing: &CancellationToken,
) -> anyhow::Result<()> {
    let session_stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    let stop = session_stop.clone();
    parts.spawn(async move {
        sessions.run(stop).await;
        "session"
    });
    let reaper_stop = closing.clone();
    parts.spawn(async move {
        Reaper::run(reaper_stop).await;
        "reaper"
    });
    parts.spawn(async move {
        executor.run().await;
        "executor"
    });
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok("executor") if shutdown.is_cancelled() => session_stop.cancel(),
            Ok("session") if shutdown.is_cancelled() => closing.cancel(),
            Ok("reaper") => {}
            ended => {
                let part = ended.unwrap_or("a part that panicked");
                result = Err(anyhow::anyhow!("the agent's {part} ended unexpectedly"));
                shutdown.cancel();
                session_stop.cancel();
                closing.cancel();
            }
        }
    }
    result
}
