//! What tests say to an agent over its session, and hear from it.

use std::time::Duration;

use kernex_proto::{
    ids::TargetId,
    v1::{self, device_session_request as up, device_session_response as down},
};

use crate::{bench::Bundle, fake_server::Session};

pub(crate) fn attempt() -> v1::AttemptRef {
    v1::AttemptRef {
        target_id: TargetId::generate().to_string(),
        attempt: 1,
    }
}

fn deploy_of(bundle: &Bundle) -> v1::Deploy {
    v1::Deploy {
        name: "app".into(),
        version: bundle.version.clone(),
        digest: bundle.digest.to_string(),
        size_bytes: bundle.size(),
        deployment_id: "deployment-1".into(),
        ..v1::Deploy::default()
    }
}

impl Session {
    /// The states of the attempts that the agent holds, as its Hello says.
    pub(crate) fn held(&self) -> Vec<v1::AttemptState> {
        let held = self.hello.held_attempts.iter();
        held.map(v1::HeldAttempt::state).collect()
    }

    pub(crate) async fn deploy(&self, attempt: &v1::AttemptRef, bundle: &Bundle) {
        let deploy = deploy_of(bundle);
        self.command(attempt, Some(v1::command::Action::Deploy(deploy)))
            .await;
    }

    /// Deploys with an execution time.
    pub(crate) async fn deploy_within(
        &self,
        attempt: &v1::AttemptRef,
        bundle: &Bundle,
        execution: Duration,
    ) {
        let deploy = v1::Deploy {
            execution_ms: u64::try_from(execution.as_millis()).unwrap(),
            ..deploy_of(bundle)
        };
        self.command(attempt, Some(v1::command::Action::Deploy(deploy)))
            .await;
    }

    /// Grants a run of a deploy.
    pub(crate) async fn deploy_run(&self, attempt: &v1::AttemptRef, bundle: &Bundle, run: u32) {
        let command = v1::Command {
            attempt: Some(attempt.clone()),
            epoch: self.epoch,
            remaining_ms: 60_000,
            run,
            action: Some(v1::command::Action::Deploy(deploy_of(bundle))),
            ..v1::Command::default()
        };
        self.send(Some(down::Message::Command(command))).await;
    }

    /// Asks for the release that is on the device.
    pub(crate) async fn go_back(&self, attempt: &v1::AttemptRef, bundle: &Bundle) {
        let deploy = v1::Deploy {
            go_back: true,
            ..deploy_of(bundle)
        };
        self.command(attempt, Some(v1::command::Action::Deploy(deploy)))
            .await;
    }

    pub(crate) async fn stop(&self, attempt: &v1::AttemptRef) {
        self.command(
            attempt,
            Some(v1::command::Action::Stop(v1::Stop::default())),
        )
        .await;
    }

    /// Stops going back as well.
    pub(crate) async fn stop_going_back(&self, attempt: &v1::AttemptRef) {
        let stop = v1::Stop {
            going_back: true,
            overdue: false,
        };
        self.command(attempt, Some(v1::command::Action::Stop(stop)))
            .await;
    }

    pub(crate) async fn command(
        &self,
        attempt: &v1::AttemptRef,
        action: Option<v1::command::Action>,
    ) {
        let command = v1::Command {
            attempt: Some(attempt.clone()),
            epoch: self.epoch,
            remaining_ms: 60_000,
            action,
            ..v1::Command::default()
        };
        self.send(Some(down::Message::Command(command))).await;
    }

    pub(crate) async fn ack(&self, seq: u64) {
        let disposition = v1::Disposition::Applied.into();
        self.send(Some(down::Message::Ack(v1::Ack { seq, disposition })))
            .await;
    }

    /// The next report that is not progress.
    pub(crate) async fn report(&mut self) -> v1::Report {
        loop {
            match self.next().await.expect("the session ended") {
                up::Message::Report(report) if report.seq != 0 => return report,
                up::Message::Heartbeat(heartbeat) => {
                    let seq = heartbeat.seq;
                    let ack = v1::HeartbeatAck { seq };
                    self.send(Some(down::Message::HeartbeatAck(ack))).await;
                }
                _ => {}
            }
        }
    }

    /// Takes and acknowledges the report that a command was accepted.
    pub(crate) async fn accepted(&mut self) {
        let report = self.report().await;
        assert!(
            matches!(report.event, Some(v1::report::Event::Accepted(_))),
            "{report:?}"
        );
        self.ack(report.seq).await;
    }

    /// Waits for the step to begin.
    pub(crate) async fn step(&mut self, wanted: v1::Step) {
        loop {
            if let Some(up::Message::Report(report)) = self.next().await
                && let Some(v1::report::Event::Progress(progress)) = report.event
                && progress.step() == wanted
            {
                return;
            }
        }
    }

    /// The steps that are told within some time.
    pub(crate) async fn steps_within(&mut self, time: Duration) -> Vec<v1::Step> {
        let mut told = Vec::new();
        let _ = tokio::time::timeout(time, async {
            while let Some(message) = self.next().await {
                if let up::Message::Report(report) = message
                    && let Some(v1::report::Event::Progress(progress)) = report.event
                {
                    told.push(progress.step());
                }
            }
        })
        .await;
        told
    }

    /// Waits until the agent says that a stop was carried out; returns the step it tells of.
    pub(crate) async fn stopped(&mut self) -> v1::Step {
        loop {
            let Some(up::Message::Report(report)) = self.next().await else {
                continue;
            };
            match report.event {
                Some(v1::report::Event::Progress(progress)) if progress.stopped => {
                    return progress.step();
                }
                Some(v1::report::Event::Outcome(outcome)) => panic!("not stopped, but {outcome:?}"),
                _ => {}
            }
        }
    }

    /// Takes reports until the outcome, acknowledging what comes before it.
    pub(crate) async fn outcome(&mut self) -> (u64, v1::Outcome) {
        loop {
            let report = self.report().await;
            match report.event {
                Some(v1::report::Event::Outcome(outcome)) => return (report.seq, outcome),
                _ => self.ack(report.seq).await,
            }
        }
    }

    /// Deploys, acknowledges everything and returns the outcome.
    pub(crate) async fn deployed(&mut self, bundle: &Bundle) -> v1::Outcome {
        self.deploy(&attempt(), bundle).await;
        let (seq, outcome) = self.outcome().await;
        self.ack(seq).await;
        outcome
    }
}
