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
    executor::outcome::StepError,
    health::{HealthVerdict, HealthWatch, probe_http, probe_tcp},
};

impl Attempt<'_> {
    /// Probes until the release has shown that it is healthy, if its manifest says how.
    pub(super) async fn health(&mut self, prepared: &Prepared) -> Result<(), StepError> {
        let Some(health) = &prepared.manifest.health else {
            return Ok(());
        };
        self.begin_step(Step::Health).await?;
        self.probe_until_healthy(prepared, health).await
    }

    /// Probes within a step that has begun, at most until the execution deadline.
    pub(super) async fn probe_until_healthy(
        &mut self,
        prepared: &Prepared,
        health: &Health,
    ) -> Result<(), StepError> {
        let mut watch = HealthWatch::new(health);
        let mut next = clock::since_boot().saturating_add(health.initial_delay());
        loop {
            self.unless_ended(clock::sleep_until(next)).await?;
            let sent = clock::since_boot();
            let probed = self
                .probe(prepared, health)
                .instrument(tracing::info_span!(
                    "probe",
                    process.exit.code = tracing::field::Empty
                ))
                .await?;
            match watch.observe(probed.is_ok(), sent, clock::since_boot()) {
                HealthVerdict::Healthy => return Ok(()),
                HealthVerdict::Wait(at) => next = at,
                HealthVerdict::Unhealthy => {
                    return Err(StepError::failed(
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

    /// Runs one probe. The outer error ends the attempt; the inner one is a failed probe.
    async fn probe(
        &mut self,
        prepared: &Prepared,
        health: &Health,
    ) -> Result<Result<(), String>, StepError> {
        let limit = health.timeout();
        let answer = |result: Result<Result<(), String>, Elapsed>| {
            result.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
        };
        match &health.probe {
            Probe::Tcp(address) => {
                let probed = self.unless_ended(timeout(limit, probe_tcp(address)));
                probed.await.map(answer)
            }
            Probe::Http(address) => {
                let probed = self.unless_ended(timeout(limit, probe_http(address)));
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
