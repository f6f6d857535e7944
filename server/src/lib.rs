//! The Kernex control plane.
//!
//! The way of a deployment:
//!
//! * `api::deployments` commits rows through `store` and leaves a wake-up.
//! * `delivery::dispatcher` asks the store what is due, and pushes it through `delivery::registry`
//!   into the `session`s that are here.
//! * The agent's reports come back through `session` to `recorder`. `domain::attempt` decides about
//!   them, `store` commits many at once, and then they are acknowledged.
//! * `upkeep::open_phases` opens one phase after the other, as `domain::rollout` says.
//! * Watchers see each commit.
//!
//! The rows are the queue. A lost session, wake-up or server loses nothing, because a new session
//! and a timer lead to the same dispatcher pass.
//!
//! [`run`] builds the parts, supervises them and takes them down again. To change how a device
//! connects, open `session/handshake.rs`; what an attempt may become, `domain/attempt.rs`; who may
//! call what, `edge/auth.rs`; which error means which status, `error.rs`. The words are explained
//! in `docs/glossary.md`.

pub mod api;
mod assembly;
mod backoff;
pub mod blobs;
pub mod clock;
pub mod config;
mod crash;
pub mod delivery;
pub mod domain;
pub mod edge;
pub mod enrollment;
pub mod error;
pub mod lifecycle;
mod log_queue;
pub mod metrics;
mod parts;
pub mod preflight;
pub mod recorder;
pub mod revocations;
pub mod session;
mod signature;
mod startup;
pub mod store;
mod supervise;
mod upkeep;
pub mod wire;

use anyhow::Context as _;

pub use config::Config;
pub use lifecycle::Shutdown;
pub use startup::AdminTokenFile;
pub use supervise::run;

/// Brings the database to this version's schema.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    if config.database_url.starts_with("sqlite") {
        // Makes the folder, and fails while a server runs in it.
        let _lock = startup::data_folder(&config.data_dir)?;
        return migrate_open(config).await;
    }
    migrate_open(config).await
}

async fn migrate_open(config: &Config) -> anyhow::Result<()> {
    let store = startup::database(config, clock::Clock::system()).await?;
    store.migrate().await?;
    store.close().await?;
    Ok(())
}

/// Copies all rows to the database at `to`. The server has to be stopped.
pub async fn copy_database(config: &Config, to: &str) -> anyhow::Result<Vec<store::CopiedTable>> {
    let _lock = startup::data_folder(&config.data_dir)?;
    let clock = clock::Clock::system();
    let source = startup::database(config, clock.clone()).await?;
    // The data folder does not show replicas on other machines.
    let patience = upkeep::LEASE + std::time::Duration::from_secs(5);
    let unused = source.wait_until_unused(patience).await;
    unused.context("cannot copy the database named by --database-url")?;
    source.migrate().await?;
    let target = Config {
        database_url: to.to_owned(),
        ..config.clone()
    };
    let target = startup::database(&target, clock)
        .await
        .context("--to cannot be used")?;
    target.migrate_schema().await?;
    let copied = source.copy_to(&target).await?;
    target.close().await?;
    source.close().await?;
    Ok(copied)
}

/// Writes a new admin token into the data folder. That is the way back in when all other tokens are
/// lost or expired. With `replace` the ones that the server made before are revoked.
pub async fn admin_token(config: &Config, replace: bool) -> anyhow::Result<AdminTokenFile> {
    let store = startup::database(config, clock::Clock::system()).await?;
    let written = startup::new_admin_token(&store, &config.data_dir, replace).await?;
    store.close().await?;
    Ok(written)
}
