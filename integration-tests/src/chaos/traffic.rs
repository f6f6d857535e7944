//! Random deployments of a scenario: bundles with witnesses, to some of the devices; some are
//! cancelled.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use kernex_proto::v1::{Bundle, CancelDeploymentRequest, CreateDeploymentRequest};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tonic::Status;
use uuid::Uuid;

use super::{
    History,
    witness::{BundleContents, WitnessedBundle},
};
use crate::{Operator, refusal::is_passing};

/// Bundle names that are deployed: few, so that deployments supersede each other.
const NAMES: [&str; 3] = ["app", "base", "edge"];

/// Longest an order is tried again while the server is away.
const PATIENCE: Duration = Duration::from_secs(60);

const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// An operator who deploys at random. Clones share their bundles and deployments.
#[derive(Debug, Clone)]
pub struct Traffic {
    operator: Operator,
    devices: Arc<Mutex<Vec<String>>>,
    bundles: Arc<Mutex<BTreeMap<String, BundleContents>>>,
    orders: Arc<Mutex<Vec<String>>>,
    history: History,
    rng: Arc<Mutex<StdRng>>,
}

impl Traffic {
    /// No devices yet.
    #[must_use]
    pub fn new(operator: Operator, seed: u64, history: History) -> Self {
        Self {
            operator,
            devices: Arc::default(),
            bundles: Arc::default(),
            orders: Arc::default(),
            history,
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    /// Lets it reach one more device.
    pub fn add_device(&self, name: &str) {
        let mut devices = self.devices.lock();
        devices.push(name.to_owned());
    }

    /// Everything that was made so far, by digest.
    #[must_use]
    pub fn bundles(&self) -> BTreeMap<String, BundleContents> {
        self.bundles.lock().clone()
    }

    /// Ids of the deployments that were ordered so far, in order.
    #[must_use]
    pub fn orders(&self) -> Vec<String> {
        self.orders.lock().clone()
    }

    /// A new random bundle.
    #[must_use]
    pub fn bundle(&self) -> WitnessedBundle {
        let name = self.decide(|rng| NAMES[rng.random_range(0..NAMES.len())]);
        self.bundle_of(name)
    }

    /// A new random bundle of every name there is.
    #[must_use]
    pub fn one_of_each(&self) -> Vec<WitnessedBundle> {
        NAMES.iter().map(|name| self.bundle_of(name)).collect()
    }

    fn bundle_of(&self, name: &str) -> WitnessedBundle {
        self.decide(|rng| {
            let version = format!("1.{}", rng.random::<u64>());
            WitnessedBundle::random(name, &version, rng)
        })
    }

    /// A random decision, drawn by the seed.
    pub fn decide<T>(&self, how: impl FnOnce(&mut StdRng) -> T) -> T {
        how(&mut self.rng.lock())
    }

    /// A random bundle on some devices, tried until the server has it; one in eight is cancelled
    /// right away. `None` when the server was away for too long.
    pub async fn deploy(&self) -> Option<String> {
        let all = self.devices.lock().clone();
        let (bundle, devices) = self.decide(|rng| {
            let name = NAMES[rng.random_range(0..NAMES.len())];
            let version = format!("1.{}", rng.random::<u64>());
            let bundle = WitnessedBundle::random(name, &version, rng);
            let some = rng.random_range(1..=all.len());
            (bundle, all.sample(rng, some).cloned().collect())
        });
        let id = self.deploy_bundle(&bundle, devices).await?;
        if self.decide(|rng| rng.random_ratio(1, 8)) {
            self.cancel(&id).await;
        }
        Some(id)
    }

    /// Uploads and deploys one bundle; returns the deployment's id.
    pub async fn deploy_bundle(
        &self,
        bundle: &WitnessedBundle,
        devices: Vec<String>,
    ) -> Option<String> {
        let request = CreateDeploymentRequest {
            device_names: devices,
            ..Default::default()
        };
        self.order(bundle, request).await
    }

    /// Uploads one bundle and orders it as asked for; returns the deployment's id.
    pub async fn order(
        &self,
        bundle: &WitnessedBundle,
        request: CreateDeploymentRequest,
    ) -> Option<String> {
        let uploaded = self.upload(bundle).await?;
        let request = CreateDeploymentRequest {
            bundle: uploaded.digest,
            request_id: Uuid::now_v7().to_string(),
            ..request
        };
        let id = self
            .insist(|| self.operator.deploy_for(request.clone()))
            .await?;
        self.orders.lock().push(id.clone());
        let what = format!("{}:{}", uploaded.name, uploaded.version);
        let devices = request.device_names;
        self.history
            .note(format_args!("deployed {what} to {devices:?} as {id}"));
        Some(id)
    }

    pub async fn upload(&self, bundle: &WitnessedBundle) -> Option<Bundle> {
        let (archive, facts) = bundle.build().await;
        let uploaded: Bundle = self.insist(|| self.operator.try_push(&archive)).await?;
        // Noted before any device can run it.
        self.bundles.lock().insert(uploaded.digest.clone(), facts);
        Some(uploaded)
    }

    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Takes a deployment back.
    pub async fn cancel(&self, id: &str) {
        let request = CancelDeploymentRequest {
            deployment_id: id.to_owned(),
            request_id: Uuid::now_v7().to_string(),
        };
        let cancel = || async {
            let mut deployments = self.operator.deployments();
            match deployments.cancel_deployment(request.clone()).await {
                // The deployment had finished first.
                Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(false),
                cancelled => cancelled.map(|_| true),
            }
        };
        if self.insist(cancel).await == Some(true) {
            self.history.note(format_args!("cancelled {id}"));
        }
    }

    /// Tries again while the server is away. A refusal ends the run.
    pub(super) async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &self,
        mut order: impl FnMut() -> F,
    ) -> Option<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            // A stalled server must not hold the fleet's traffic up for ever.
            let answer = tokio::time::timeout(Duration::from_secs(10), order()).await;
            match answer {
                Ok(Ok(value)) => return Some(value),
                Ok(Err(status)) if !is_passing(&status) => {
                    self.history.note(format_args!("refused: {status}"));
                    panic!("an order was refused: {status}");
                }
                _ if tokio::time::Instant::now() > end => return None,
                _ => tokio::time::sleep(BETWEEN_TRIES).await,
            }
        }
    }
}
