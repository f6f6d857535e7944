//! What has to be done because time passes: the lease, deadlines, the database's log, retention,
//! certificates.

pub(crate) mod open_phases;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{
        registry::{EndReason, Registry},
        wake_ups::WakeUps,
    },
    edge::{auth::Authenticator, tls::Identity},
    error::chain,
    store::{LEASE_GRACE, ReplicaId, Retention, Store, StoreError},
};

/// How long other replicas believe that this one lives.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
const RENEW_LEASE: Duration = Duration::from_secs(5);
/// Time between two comparisons of the sessions here with the rows, when no other replica writes to
/// this database. What this process ends it knows at once. A comparison of ten thousand rows only
/// finds what came in between.
const COMPARE_ALONE: Duration = Duration::from_secs(60);
/// Time between two checks for revocations of other replicas. What is revoked here is known at
/// once.
const LISTEN: Duration = Duration::from_millis(500);
/// The same when no other replica writes to this database. `kernex-server admin-token` may revoke.
const LISTEN_ALONE: Duration = Duration::from_secs(5);
const WRITE_SIGHTINGS: Duration = Duration::from_secs(30);
const LAST_SIGHTINGS: Duration = Duration::from_secs(1);
const EXPIRE: Duration = Duration::from_secs(1);
/// Rare enough: after each checkpoint the log begins anew with a header, which costs fewer than one
/// commit in a hundred.
const CHECKPOINT: Duration = Duration::from_secs(5);
const PRUNE: Duration = Duration::from_secs(10 * 60);
const CHECK_CERTIFICATE: Duration = Duration::from_secs(3600);
/// Time between two checks of the files of a certificate that the server was given.
const RELOAD_CERTIFICATE: Duration = Duration::from_secs(10);

/// Renews this replica's lease until `stop`. Ends the sessions of replicas whose lease has ended,
/// and those here that went on at another replica.
pub(crate) async fn lease(
    store: Store,
    registry: Arc<Registry>,
    replica: ReplicaId,
    stop: CancellationToken,
) {
    let renewing = async {
        let mut ticks = interval_of(RENEW_LEASE);
        let mut steady_since = Instant::now();
        let mut compared = Instant::now();
        loop {
            ticks.tick().await;
            if let Err(error) = store.renew_lease(replica, LEASE).await {
                tracing::warn!(error = %chain(&error), "lease not renewed");
                steady_since = Instant::now();
                continue;
            }
            let looking = async {
                if !store.is_alone() || compared.elapsed() >= COMPARE_ALONE {
                    end_lost(&store, &registry, replica).await?;
                    compared = Instant::now();
                }
                if steady_since.elapsed() > LEASE_GRACE {
                    store.close_orphans().await?;
                }
                Ok::<_, StoreError>(())
            };
            if let Err(error) = looking.await {
                tracing::warn!(error = %chain(&error), "sessions of other replicas not looked at");
            }
        }
    };
    run_until(stop, renewing).await;
}

async fn end_lost(
    store: &Store,
    registry: &Registry,
    replica: ReplicaId,
) -> Result<(), StoreError> {
    let here = registry.online();
    for (device, epoch) in store.sessions_lost(replica, &here).await? {
        if let Some(session) = registry.get(device).filter(|it| it.epoch == epoch) {
            tracing::info!(%device, session = epoch, "the session went on elsewhere");
            session.end(EndReason::Replaced);
        }
    }
    Ok(())
}

/// Hears of what others revoke after the transaction with the number `seen`. One row says whether
/// there is anything.
pub(crate) async fn revocations(store: Store, mut seen: u64, stop: CancellationToken) {
    let looking = async {
        let mut ticks = interval_of(if store.is_alone() {
            LISTEN_ALONE
        } else {
            LISTEN
        });
        loop {
            ticks.tick().await;
            if let Err(error) = read_revocations(&store, &mut seen).await {
                tracing::warn!(error = %chain(&error), "what others revoked was not looked at");
            }
        }
    };
    run_until(stop, looking).await;
}

async fn read_revocations(store: &Store, seen: &mut u64) -> Result<(), StoreError> {
    let newest = store.revocation_number().await?;
    if newest != *seen {
        // A restored database has lower numbers.
        let revoked = store.revoked_after(newest.min(*seen)).await?;
        tracing::debug!(revoked = revoked.len(), "revocations heard of");
        store.revocations().publish(&revoked);
        *seen = newest;
    }
    Ok(())
}

/// Writes who used which token, and who was refused; for the last time at the stop.
pub(crate) async fn sightings(authenticator: Authenticator, stop: CancellationToken) {
    let write = async || {
        if let Err(error) = authenticator.write_sightings().await {
            tracing::warn!(error = %chain(&error), "who used which token was not written");
        }
    };
    let writing = async {
        let mut ticks = interval_of(WRITE_SIGHTINGS);
        loop {
            ticks.tick().await;
            write().await;
        }
    };
    run_until(stop, writing).await;
    // The stop may be slow because of the database.
    let _ = tokio::time::timeout(LAST_SIGHTINGS, write()).await;
}

/// Closes attempts whose deadline has passed. Wakes the dispatcher for devices that may go on with
/// something else.
pub(crate) async fn expiry(
    store: Store,
    registry: Arc<Registry>,
    wake_ups: Arc<WakeUps>,
    stop: CancellationToken,
) {
    let expiring = async {
        let mut ticks = interval_of(EXPIRE);
        let mut trusted = true;
        loop {
            ticks.tick().await;
            if store.trusts_clock() != trusted {
                trusted = !trusted;
                log_clock_trust(&store, trusted).await;
            }
            match store.expire_due().await {
                Ok(0) => {}
                Ok(expired) => {
                    tracing::info!(expired, "attempts expired");
                    wake_ups.wake_rollouts();
                    wake_ups.wake_devices(registry.online().into_iter().map(|(device, _)| device));
                }
                Err(error) => tracing::warn!(error = %chain(&error), "deadlines not checked"),
            }
        }
    };
    run_until(stop, expiring).await;
}

async fn log_clock_trust(store: &Store, trusted: bool) {
    let drift_seconds = store.clock_drift().as_secs();
    if trusted {
        tracing::info!(drift_seconds, "the clock is back; deadlines count again");
    } else {
        tracing::error!(
            drift_seconds,
            "the clock jumped; nothing expires, opens by a window or soaks until it is back or the server restarts"
        );
    }
    if let Err(error) = store.note_clock(trusted).await {
        tracing::warn!(error = %chain(&error), "no event written about the clock");
    }
}

/// Keeps the database's log short, so that commits need not.
pub(crate) async fn checkpoints(store: Store, stop: CancellationToken) {
    let checkpointing = async {
        let mut ticks = interval_of(CHECKPOINT);
        loop {
            ticks.tick().await;
            if let Err(error) = store.checkpoint().await {
                tracing::warn!(error = %chain(&error), "the database's log was not moved into its file");
            }
        }
    };
    run_until(stop, checkpointing).await;
}

/// Deletes rows that are older than their retention.
pub(crate) async fn pruning(store: Store, retention: Retention, stop: CancellationToken) {
    let pruning = async {
        let mut ticks = interval_of(PRUNE);
        loop {
            ticks.tick().await;
            if let Err(error) = store.prune(retention).await {
                tracing::warn!(error = %chain(&error), "old rows not pruned");
            }
        }
    };
    run_until(stop, pruning).await;
}

/// Renews the server's certificate a month before it ends, and reads the one that it was given when
/// that is replaced. Neither needs a restart.
pub(crate) async fn certificate(identity: Arc<Identity>, stop: CancellationToken) {
    let renewing = async {
        let (mut renewals, mut looks) = (
            interval_of(CHECK_CERTIFICATE),
            interval_of(RELOAD_CERTIFICATE),
        );
        loop {
            let identity = Arc::clone(&identity);
            tokio::select! {
                _ = renewals.tick() => {
                    let renewed = tokio::task::spawn_blocking(move || identity.renew()).await;
                    told_certificate(renewed, "the server's own certificate was renewed");
                }
                _ = looks.tick() => {
                    let loaded = tokio::task::spawn_blocking(move || identity.reload()).await;
                    told_certificate(loaded, "the certificate of --tls-cert was loaded again");
                }
            }
        }
    };
    run_until(stop, renewing).await;
}

fn told_certificate(changed: Result<anyhow::Result<bool>, tokio::task::JoinError>, what: &str) {
    match changed {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::info!("{what}"),
        Ok(Err(error)) => {
            tracing::error!(
                error = format!("{error:#}"),
                "a certificate cannot be taken over; the one before stays"
            );
        }
        Err(error) => {
            tracing::error!(%error, "a certificate cannot be taken over; the one before stays");
        }
    }
}

fn interval_of(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A stop does not wait for the database. Work that it cuts off is done again by the next start.
async fn run_until(stop: CancellationToken, work: impl Future<Output = Never>) {
    if let Some(never) = stop.run_until_cancelled(work).await {
        match never {}
    }
}

/// The return type of a loop that never ends.
enum Never {}
