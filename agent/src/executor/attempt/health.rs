//! The health of a release that was just activated.

use kernex_proto::{
    manifest::{Health, Probe},
    v1::{FailureReason, Step},
};
use tokio::time::{error::Elapsed, timeout};
use tracing::Instrument as _;

use super::{Attempt, Prepared};
use crate::{
    clock,
    executor::verdict::Break,
    health::{Verdict, Watch, probe_http, probe_tcp},
};

impl Attempt<'_> {
    /// Probes until the release has shown that it is healthy, if its manifest says how.
    pub(super) async fn health(&mut self, prepared: &Prepared) -> Result<(), Break> {
        let Some(health) = &prepared.manifest.health else {
            return Ok(());
        };
        self.begin(Step::Health).await?;
        self.watch(prepared, health).await
    }

    /// Probes within a step that has begun. It ends at the execution deadline at the latest.
    pub(super) async fn watch(
        &mut self,
        prepared: &Prepared,
        health: &Health,
    ) -> Result<(), Break> {
        let mut watch = Watch::new(health);
        let mut next = clock::since_boot().saturating_add(health.initial_delay());
        loop {
            self.undisturbed(clock::sleep_until(next)).await?;
            let sent = clock::since_boot();
            let probed = self
                .probe(prepared, health)
                .instrument(tracing::info_span!("probe"))
                .await?;
            match watch.observe(probed.is_ok(), sent, clock::since_boot()) {
                Verdict::Healthy => return Ok(()),
                Verdict::Wait(at) => next = at,
                Verdict::Unhealthy => {
                    return Err(Break::failed(
                        FailureReason::HealthCheck,
                        format!(
                            "health: {} probes failed, the last one: {}",
                            watch.failures(),
                            probed.err().unwrap_or_default()
                        ),
                    ));
                }
            }
            if let Err(why) = probed {
                tracing::info!(why, failures = watch.failures(), "a probe failed");
            }
        }
    }

    /// One probe: what it showed, or that the attempt is to end.
    async fn probe(
        &mut self,
        prepared: &Prepared,
        health: &Health,
    ) -> Result<Result<(), String>, Break> {
        let limit = health.timeout();
        let answer = |result: Result<Result<(), String>, Elapsed>| {
            result.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
        };
        match &health.probe {
            Probe::Tcp(address) => {
                let probed = self.undisturbed(timeout(limit, probe_tcp(address)));
                probed.await.map(answer)
            }
            Probe::Http(address) => {
                let probed = self.undisturbed(timeout(limit, probe_http(address)));
                probed.await.map(answer)
            }
            Probe::Command(command) => {
                let left = self.deadline.saturating_sub(clock::since_boot());
                let run = prepared.run(Step::Health, "health.command", command);
                self.run_probe(&run, limit.min(left)).await
            }
        }
    }
}
