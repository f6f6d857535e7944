//! Rollouts: the devices, the orders and the waits of their tests.

mod limits;
mod pauses_and_retries;
mod phases;

use std::collections::HashMap;

use kernex_integration_tests::{
    Operator, TestServer,
    raw_agent::{RawSession, failed, succeeded},
    wait::{seen, wait_for},
};
use kernex_proto::v1::{
    AttemptState, Command, CreateDeploymentRequest, Deploy, Deployment, DeploymentState,
    FailureReason, PauseDeploymentRequest, Phase, PromoteDeploymentRequest,
    ResumeDeploymentRequest, RetryDeploymentRequest, Rollout, phase::Size,
};
use tonic::Status;

fn count(count: u32) -> Phase {
    Phase {
        size: Some(Size::Count(count)),
        ..Phase::default()
    }
}

fn phases(phases: Vec<Phase>) -> Rollout {
    Rollout {
        phases,
        ..Rollout::default()
    }
}

/// Orders a bundle that does nothing for every device.
async fn order(operator: &Operator, rollout: Rollout) -> Result<String, Status> {
    let bundle = operator.push_script("app", "1.0", "true").await;
    operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest,
            selector: "*".into(),
            rollout: Some(rollout),
            ..Default::default()
        })
        .await
}

async fn standing(operator: &Operator, id: &str, state: DeploymentState) -> Deployment {
    wait_for(&format!("the deployment to be {state:?}"), || async {
        let deployment = operator.deployment(id).await;
        seen(deployment.state() == state, deployment)
    })
    .await
}

async fn resume(operator: &Operator, id: &str) -> Result<(), Status> {
    let request = ResumeDeploymentRequest {
        deployment_id: id.into(),
        ..Default::default()
    };
    operator
        .rollouts()
        .resume_deployment(request)
        .await
        .map(drop)
}

async fn pause(operator: &Operator, id: &str, reason: &str) -> Result<(), Status> {
    let request = PauseDeploymentRequest {
        deployment_id: id.into(),
        reason: reason.into(),
        ..Default::default()
    };
    operator
        .rollouts()
        .pause_deployment(request)
        .await
        .map(drop)
}

async fn promote(operator: &Operator, id: &str, phase: u32) -> Result<(), Status> {
    let request = PromoteDeploymentRequest {
        deployment_id: id.into(),
        phase,
        ..Default::default()
    };
    operator
        .rollouts()
        .promote_deployment(request)
        .await
        .map(drop)
}

async fn retry(operator: &Operator, id: &str, devices: &[&str]) -> Result<(u32, u32), Status> {
    let request = RetryDeploymentRequest {
        deployment_id: id.into(),
        devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let answer = operator.rollouts().retry_deployment(request).await?;
    let answer = answer.into_inner();
    Ok((answer.retried, answer.left_out))
}

/// Devices the test speaks for.
struct Fleet {
    sessions: HashMap<String, RawSession>,
}

impl Fleet {
    async fn of(server: &TestServer, names: &[&str]) -> Self {
        // Making a key may take longer than a session may be silent, so everybody enrols first.
        let mut devices = Vec::new();
        for name in names {
            devices.push(server.raw_device(name).await);
        }
        let mut sessions = HashMap::new();
        for mut device in devices {
            let session = device.connect(server).await;
            server.operator().online(&device.name).await;
            sessions.insert(device.name, session);
        }
        Self { sessions }
    }

    fn session(&mut self, name: &str) -> &mut RawSession {
        self.sessions.get_mut(name).expect("one of the fleet")
    }

    /// Takes the command of a device that was released.
    async fn take(&mut self, name: &str) -> (Command, Deploy) {
        let (command, deploy) = self.session(name).deploy_command().await;
        self.session(name).accept(&command, 1).await;
        (command, deploy)
    }

    async fn succeed(&mut self, name: &str) {
        let (command, deploy) = self.take(name).await;
        self.session(name)
            .outcome(&command, 2, succeeded(&deploy))
            .await;
    }

    async fn fail(&mut self, name: &str) {
        let (command, _) = self.take(name).await;
        let outcome = failed(FailureReason::ScriptFailed, "it broke");
        self.session(name).outcome(&command, 2, outcome).await;
    }
}

/// Names of the devices in these states.
async fn in_states(operator: &Operator, id: &str, states: &[AttemptState]) -> Vec<String> {
    let targets = operator.targets(id).await.into_iter();
    let found = targets.filter(|target| states.contains(&target.state()));
    found.map(|target| target.device_name).collect()
}

const IN_FLIGHT: &[AttemptState] = &[
    AttemptState::Pending,
    AttemptState::Sent,
    AttemptState::Accepted,
    AttemptState::Running,
];

/// Waits until so many are in flight, and never sees more; names them.
async fn in_flight(operator: &Operator, id: &str, n: usize) -> Vec<String> {
    wait_for(&format!("{n} devices to be in flight"), || async {
        let names = in_states(operator, id, IN_FLIGHT).await;
        assert!(names.len() <= n, "more than {n} in flight: {names:?}");
        seen(names.len() == n, names)
    })
    .await
}
