//! Triggers of crash points: each is a command for one device, repeated until the server has it.

use std::{path::PathBuf, time::Duration};

use kernex_proto::v1::{
    Configuration, CreateDeploymentRequest, DeleteBundleRequest, PlanDeploymentRequest,
    SetConfigurationRequest, configuration::Scope,
};
use rand::RngExt as _;
use tokio::{process::Command, time::sleep};
use uuid::Uuid;

use super::points::Trigger;
use crate::{
    TestServer, agent,
    chaos::{
        traffic::Traffic,
        witness::{StepBehaviour, WitnessedBundle},
    },
};

/// Name of a device that only ever enrols.
const NEWCOMER: &str = "newcomer";

/// Time for the script of a deployment to begin before the deployment is cancelled.
const UNDER_WAY: Duration = Duration::from_millis(700);

/// Time for an agent to be back after a restart that a script asked for.
const RESTARTED: Duration = Duration::from_secs(3);

/// Longest a question or an enrolment may take.
const ASKING: Duration = Duration::from_secs(20);

/// Triggers crash points with commands for one device.
#[derive(Debug, Clone)]
pub(super) struct Provoker {
    traffic: Traffic,
    device: String,
    newcomer: Option<Newcomer>,
}

/// A device that enrols again and again, with the same key.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    state: PathBuf,
    url: String,
    token: String,
}

impl Newcomer {
    /// Enrols it for the first time.
    pub(super) async fn of(server: &TestServer) -> Self {
        let state = server.scratch().join("newcomer");
        agent::place_key(&state, server.new_key());
        Self {
            state,
            url: server.url(),
            token: server.operator().enrollment_token(&[]).await,
        }
    }
}

impl Provoker {
    pub(super) fn new(traffic: Traffic, device: &str) -> Self {
        Self {
            traffic,
            device: device.to_owned(),
            newcomer: None,
        }
    }

    /// The same with a device that can enrol.
    pub(super) fn with(self, newcomer: &Newcomer) -> Self {
        Self {
            newcomer: Some(newcomer.clone()),
            ..self
        }
    }

    /// Fires a trigger once; returns the deployment, if it made one.
    pub(super) async fn once(&self, trigger: Trigger) -> Option<String> {
        let serial: u32 = self.traffic.decide(|rng| rng.random());
        let bundle = WitnessedBundle::new("app", &format!("1.{serial}"));
        match trigger {
            Trigger::Start | Trigger::Drain | Trigger::Apart => None,
            Trigger::Deploy => {
                let content = serial.to_be_bytes().repeat(4000);
                let whole = ["pre_hook", "script", "post_hook"].iter();
                let whole = whole.fold(bundle, |bundle, step| {
                    bundle.step(step, StepBehaviour::QUICK)
                });
                self.deploy(whole.file("data", content, false)).await
            }
            Trigger::Cancel => {
                let slow = StepBehaviour {
                    millis: 5000,
                    exit: 0,
                };
                let id = self.deploy(bundle.step("script", slow)).await?;
                sleep(UNDER_WAY).await;
                self.traffic.cancel(&id).await;
                Some(id)
            }
            Trigger::Defer => {
                let again = bundle.step("pre_hook", StepBehaviour::AGAIN);
                self.deploy(again.step("script", StepBehaviour::QUICK))
                    .await
            }
            Trigger::Restart => {
                self.deploy(bundle.step("script", StepBehaviour::AGAIN))
                    .await
            }
            Trigger::Return => {
                let good = WitnessedBundle::new("app", &format!("0.{serial}"));
                self.deploy(good.step("script", StepBehaviour::AGAIN))
                    .await?;
                sleep(RESTARTED).await;
                self.deploy(bundle.step("script", StepBehaviour::BAD)).await
            }
            Trigger::Fail => {
                let good = WitnessedBundle::new("app", &format!("0.{serial}"));
                self.deploy(good.step("script", StepBehaviour::QUICK))
                    .await?;
                sleep(UNDER_WAY).await;
                self.deploy(bundle.step("script", StepBehaviour::BAD)).await
            }
            Trigger::FailFirst => {
                let first = WitnessedBundle::new(&format!("first-{serial}"), "1.0");
                let first = first.step("script", StepBehaviour::QUICK);
                self.deploy(first.step("post_hook", StepBehaviour::BAD))
                    .await
            }
            Trigger::Configure => self.configure(serial).await,
            Trigger::Plan => self.plan(bundle.step("script", StepBehaviour::QUICK)).await,
            Trigger::Enrol => self.enrol().await,
            Trigger::Expire => {
                // Its server has just come up, so the device is often not back yet.
                let request = CreateDeploymentRequest {
                    device_names: vec![self.device.clone()],
                    delivery_timeout_seconds: 1,
                    ..CreateDeploymentRequest::default()
                };
                let bundle = bundle.step("script", StepBehaviour::QUICK);
                self.traffic.order(&bundle, request).await
            }
            Trigger::DeleteBundle => {
                self.delete(bundle.step("script", StepBehaviour::QUICK))
                    .await
            }
        }
    }

    async fn deploy(&self, bundle: WitnessedBundle) -> Option<String> {
        let devices = vec![self.device.clone()];
        self.traffic.deploy_bundle(&bundle, devices).await
    }

    async fn configure(&self, serial: u32) -> Option<String> {
        let configuration = Configuration {
            name: format!("of-{}", self.device),
            scope: Some(Scope::DeviceId(self.device.clone())),
            values: [("SERIAL".to_owned(), serial.to_string())].into(),
            ..Configuration::default()
        };
        let request = SetConfigurationRequest {
            configuration: Some(configuration),
            request_id: Uuid::now_v7().to_string(),
        };
        let set = || async {
            let mut configurations = self.traffic.operator().configurations();
            configurations.set_configuration(request.clone()).await
        };
        self.traffic.insist(set).await;
        None
    }

    async fn plan(&self, bundle: WitnessedBundle) -> Option<String> {
        let uploaded = self.traffic.upload(&bundle).await?;
        let order = CreateDeploymentRequest {
            bundle: uploaded.digest,
            device_names: vec![self.device.clone()],
            ..CreateDeploymentRequest::default()
        };
        let request = PlanDeploymentRequest {
            deployment: Some(order),
        };
        // A question is lost when the program that was asked dies.
        let mut plans = self.traffic.operator().plans();
        let _ = tokio::time::timeout(ASKING, plans.plan_deployment(request)).await;
        None
    }

    async fn enrol(&self) -> Option<String> {
        let newcomer = self.newcomer.as_ref()?;
        let mut command = Command::from(agent::bare_command("enroll"));
        command
            .arg("--state-dir")
            .arg(&newcomer.state)
            .args(["--server", &newcomer.url, "--token", &newcomer.token])
            .args(["--name", NEWCOMER])
            .kill_on_drop(true);
        // The server may be on its way up or down; the next try tells.
        let _ = tokio::time::timeout(ASKING, command.output()).await;
        None
    }

    async fn delete(&self, bundle: WitnessedBundle) -> Option<String> {
        let uploaded = self.traffic.upload(&bundle).await?;
        let request = DeleteBundleRequest {
            bundle: uploaded.digest,
            request_id: Uuid::now_v7().to_string(),
        };
        let delete = || async {
            let mut bundles = self.traffic.operator().bundles();
            bundles.delete_bundle(request.clone()).await
        };
        self.traffic.insist(delete).await;
        None
    }
}
