//! The life of the server. It starts, runs until it is asked to stop or one of its parts fails, and
//! ends in good order. How its parts are made is in `assembly.rs`.

use std::time::Duration;

use kernex_proto::service;
use rand::RngExt as _;

use crate::{
    assembly::Assembly,
    config::Config,
    domain::device::away::AwayReason,
    edge::listener,
    error::chain,
    lifecycle::{Shutdown, Tasks},
    parts::Parts,
    startup::{self, announce},
    store::{ReplicaId, Store},
    upkeep,
};

/// Time for writing the last reports and closing the database.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Milliseconds after a drain between which each agent is told to come back.
const RECONNECT_MILLIS: (u64, u64) = (200, 5_200);

/// Runs the control plane on a bound listener until it is asked to stop. An error means that it
/// could not start, or that one of its parts failed. A stop, soft or hard, is no error.
pub async fn run(
    config: Config,
    listener: std::net::TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let monitoring = config
        .network
        .metrics_listen
        .map(listener::bind_metrics)
        .transpose()?;
    let foundation = tokio::select! {
        foundation = startup::prepare(&config) => foundation?,
        () = shutdown.soft.cancelled() => return Ok(()),
    };
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let replica = ReplicaId::generate();
    foundation
        .store
        .close_replica_sessions(replica, AwayReason::ServerGone)
        .await?;
    foundation.store.renew_lease(replica, upkeep::LEASE).await?;
    // Read before the first connection.
    let heard = foundation.store.revocation_number().await?;

    // Ends everything at the drain deadline, also when nobody asks for a hard stop.
    let tasks_shutdown = Shutdown {
        soft: shutdown.soft.clone(),
        hard: shutdown.hard.child_token(),
    };
    let tasks = Tasks::new(&tasks_shutdown);
    let server = Assembly::new(foundation, replica, tasks.clone(), shutdown.soft.clone());
    let mut parts = Parts::default();
    let connections_closed = server.start(&config, listener, monitoring, heard, &mut parts)?;
    if config.announce {
        parts.start("watchdog", service::watchdog(server.last.clone()));
    }
    announce(&config, &server.foundation, address);

    let failure = tokio::select! {
        // First, because the parts end when a stop is asked for.
        biased;
        () = shutdown.hard.cancelled() => None,
        () = shutdown.soft.cancelled() => None,
        ended = parts.unexpected_end() => Some(ended),
    };
    if let Some(failure) = &failure {
        tracing::error!(error = format!("{failure:#}"), "stopping after a failure");
    }
    shutdown.soft.cancel();
    if config.announce {
        service::stopping();
    }

    let drained = server.registry.drain(reconnect_delay);
    tracing::info!(sessions = drained, "stopping");
    let finished = async {
        tokio::join!(connections_closed, tasks.finished(Duration::MAX));
    };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(config.drain_deadline) => {
            tracing::warn!(
                connections = server.open_connections(),
                tasks = tasks.len(),
                "the drain deadline passed; dropping what is left"
            );
        }
        () = shutdown.hard.cancelled() => {}
    }
    tasks_shutdown.hard.cancel();
    // The sessions are over, so nothing more reaches the recorder.
    server.last.cancel();
    tokio::select! {
        () = parts.finished() => {}
        () = tokio::time::sleep(LAST_WORDS) => tracing::warn!("some parts did not end in time"),
        () = shutdown.hard.cancelled() => {}
    }
    if !shutdown.hard.is_cancelled() {
        release_replica(server.foundation.store.clone(), replica).await;
    }
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}

async fn release_replica(store: Store, replica: ReplicaId) {
    let leaving = async {
        if let Err(error) = store
            .close_replica_sessions(replica, AwayReason::Drained)
            .await
        {
            tracing::warn!(error = %chain(&error), "sessions not marked as closed; the lease will end them");
        }
        if let Err(error) = store.close().await {
            tracing::warn!(error = %chain(&error), "database not closed in good order");
        }
    };
    if tokio::time::timeout(LAST_WORDS, leaving).await.is_err() {
        tracing::warn!("the database did not answer at the end");
    }
}

fn reconnect_delay() -> Duration {
    Duration::from_millis(rand::rng().random_range(RECONNECT_MILLIS.0..RECONNECT_MILLIS.1))
}
