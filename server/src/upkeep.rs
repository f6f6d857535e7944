//! What time alone makes necessary: the lease, deadlines, retention, a certificate that ends.

use std::{sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    dispatcher::Hints,
    error::chain,
    registry::Registry,
    store::{Store, events::Retention},
    tls::Identity,
};

/// How long other replicas believe that this one lives.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
const RENEW_LEASE: Duration = Duration::from_secs(5);
const EXPIRE: Duration = Duration::from_secs(1);
const PRUNE: Duration = Duration::from_secs(10 * 60);
const CHECK_CERTIFICATE: Duration = Duration::from_secs(3600);

/// Keeps this replica's lease alive until `stop`.
pub(crate) async fn lease(store: Store, replica: Uuid, stop: CancellationToken) {
    let renewing = async {
        let mut ticks = every(RENEW_LEASE);
        loop {
            ticks.tick().await;
            if let Err(error) = store.renew_lease(replica, LEASE).await {
                tracing::warn!(error = %chain(&error), "lease not renewed");
            }
        }
    };
    until(stop, renewing).await;
}

/// Closes what is past its deadline, and has the devices looked at that may go on with something else.
pub(crate) async fn expiry(
    store: Store,
    registry: Arc<Registry>,
    hints: Arc<Hints>,
    stop: CancellationToken,
) {
    let expiring = async {
        let mut ticks = every(EXPIRE);
        loop {
            ticks.tick().await;
            match store.expire_due().await {
                Ok(0) => {}
                Ok(expired) => {
                    tracing::info!(expired, "attempts expired");
                    hints.add(registry.online().into_iter().map(|(device, _)| device));
                }
                Err(error) => tracing::warn!(error = %chain(&error), "deadlines not checked"),
            }
        }
    };
    until(stop, expiring).await;
}

/// Deletes what is older than its retention.
pub(crate) async fn pruning(store: Store, retention: Retention, stop: CancellationToken) {
    let pruning = async {
        let mut ticks = every(PRUNE);
        loop {
            ticks.tick().await;
            if let Err(error) = store.prune(retention).await {
                tracing::warn!(error = %chain(&error), "old rows not pruned");
            }
        }
    };
    until(stop, pruning).await;
}

/// Renews the server's certificate a month before it ends, without a restart.
pub(crate) async fn certificate(identity: Arc<Identity>, stop: CancellationToken) {
    let renewing = async {
        let mut ticks = every(CHECK_CERTIFICATE);
        loop {
            ticks.tick().await;
            let identity = Arc::clone(&identity);
            match tokio::task::spawn_blocking(move || identity.renew()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!("server certificate renewed"),
                Ok(Err(error)) => {
                    tracing::error!(error = format!("{error:#}"), "certificate not renewed");
                }
                Err(error) => tracing::error!(%error, "certificate not renewed"),
            }
        }
    };
    until(stop, renewing).await;
}

fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A stop does not wait for the database; what it cuts off is done again by the next start.
async fn until(stop: CancellationToken, work: impl Future<Output = Never>) {
    if let Some(never) = stop.run_until_cancelled(work).await {
        match never {}
    }
}

/// What a loop that never ends returns.
enum Never {}
