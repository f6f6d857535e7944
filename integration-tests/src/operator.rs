//! An operator over gRPC: the calls that tests make most, and waits for their results.

mod waits;

use std::collections::BTreeMap;

use kernex_proto::v1::{
    AttemptState, Bundle, CreateDeploymentRequest, CreateEnrollmentTokenRequest, Deployment,
    Device, FailureReason, GetDeploymentRequest, GetDeviceRequest, ListBundlesRequest,
    ListTargetsRequest, RollbackDeploymentRequest, RollbackDeploymentResponse, Target,
    UpdateDeviceLabelsRequest, UploadBegin, UploadBundleRequest, WhoAmIRequest, WhoAmIResponse,
    access_service_client::AccessServiceClient, bundle_service_client::BundleServiceClient,
    configuration_service_client::ConfigurationServiceClient,
    deployment_service_client::DeploymentServiceClient, device_service_client::DeviceServiceClient,
    event_service_client::EventServiceClient, fleet_service_client::FleetServiceClient,
    plan_service_client::PlanServiceClient, rollout_service_client::RolloutServiceClient,
    upload_bundle_request,
};
use serde_json::Value;
use tokio_stream::Stream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{bundle::BundleBuilder, wait::insist};

/// Adds the operator's token to each call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Authorised = InterceptedService<Channel, Bearer>;

/// A gRPC client with an operator token.
#[derive(Debug, Clone)]
pub struct Operator {
    channel: Channel,
    bearer: Bearer,
}

impl Operator {
    /// An operator with this token.
    ///
    /// # Panics
    /// When the token is not ASCII.
    #[must_use]
    pub fn new(channel: Channel, token: &str) -> Self {
        let value = format!("Bearer {token}").parse().expect("tokens are ASCII");
        Self {
            channel,
            bearer: Bearer(Some(value)),
        }
    }

    /// The same connection without a token.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            bearer: Bearer(None),
        }
    }

    /// The same connection with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self::new(self.channel.clone(), token)
    }

    fn service(&self) -> Authorised {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    #[must_use]
    pub fn devices(&self) -> DeviceServiceClient<Authorised> {
        DeviceServiceClient::new(self.service())
    }

    #[must_use]
    pub fn bundles(&self) -> BundleServiceClient<Authorised> {
        BundleServiceClient::new(self.service())
    }

    #[must_use]
    pub fn deployments(&self) -> DeploymentServiceClient<Authorised> {
        DeploymentServiceClient::new(self.service())
    }

    #[must_use]
    pub fn plans(&self) -> PlanServiceClient<Authorised> {
        PlanServiceClient::new(self.service())
    }

    #[must_use]
    pub fn rollouts(&self) -> RolloutServiceClient<Authorised> {
        RolloutServiceClient::new(self.service())
    }

    #[must_use]
    pub fn fleet(&self) -> FleetServiceClient<Authorised> {
        FleetServiceClient::new(self.service())
    }

    #[must_use]
    pub fn events(&self) -> EventServiceClient<Authorised> {
        EventServiceClient::new(self.service())
    }

    #[must_use]
    pub fn access(&self) -> AccessServiceClient<Authorised> {
        AccessServiceClient::new(self.service())
    }

    #[must_use]
    pub fn configurations(&self) -> ConfigurationServiceClient<Authorised> {
        ConfigurationServiceClient::new(self.service())
    }

    /// Who the server takes this operator for.
    pub async fn who_am_i(&self) -> Result<WhoAmIResponse, Status> {
        let answer = self.access().who_am_i(WhoAmIRequest {}).await?;
        Ok(answer.into_inner())
    }

    /// Text of a token for one device with these labels.
    pub async fn enrollment_token(&self, labels: &[(&str, &str)]) -> String {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        self.enrollment_token_for(CreateEnrollmentTokenRequest {
            labels: labels.into_iter().collect(),
            ..Default::default()
        })
        .await
    }

    /// Text of a token as asked for.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn enrollment_token_for(&self, request: CreateEnrollmentTokenRequest) -> String {
        let ask = || async {
            let mut access = self.access();
            access.create_enrollment_token(request.clone()).await
        };
        let answer = insist(ask).await;
        answer.expect("a token is made").into_inner().text
    }

    /// Uploads an archive.
    pub async fn try_push(&self, archive: &[u8]) -> Result<Bundle, Status> {
        self.try_push_as(archive, UploadBegin::default()).await
    }

    /// Uploads an archive with an opening of the test's own.
    pub async fn try_push_as(&self, archive: &[u8], begin: UploadBegin) -> Result<Bundle, Status> {
        let chunks: Vec<bytes::Bytes> = archive
            .chunks(kernex_proto::CHUNK_SIZE)
            .map(bytes::Bytes::copy_from_slice)
            .collect();
        self.try_push_stream(begin, tokio_stream::iter(chunks))
            .await
    }

    /// Uploads whatever a stream yields.
    pub async fn try_push_stream(
        &self,
        begin: UploadBegin,
        chunks: impl Stream<Item = bytes::Bytes> + Send + 'static,
    ) -> Result<Bundle, Status> {
        use tokio_stream::StreamExt as _;
        let wrap = |message| UploadBundleRequest {
            message: Some(message),
        };
        let first = tokio_stream::once(wrap(upload_bundle_request::Message::Begin(begin)));
        let rest = chunks.map(move |chunk| wrap(upload_bundle_request::Message::Chunk(chunk)));
        let answer = self.bundles().upload_bundle(first.chain(rest)).await?;
        Ok(answer
            .into_inner()
            .bundle
            .expect("an upload names its bundle"))
    }

    /// Uploads an archive that has to be accepted.
    ///
    /// # Panics
    /// When it is not.
    pub async fn push(&self, archive: &[u8]) -> Bundle {
        self.try_push(archive)
            .await
            .expect("the bundle is accepted")
    }

    /// Uploads a bundle that runs this script; it has to be accepted.
    pub async fn push_script(&self, name: &str, version: &str, script: &str) -> Bundle {
        let archive = BundleBuilder::script(name, version, script);
        self.push(&archive.gzip().await).await
    }

    /// Uploads a bundle with this manifest and nothing else; it has to be accepted.
    pub async fn push_manifest(&self, manifest: &Value) -> Bundle {
        let archive = BundleBuilder::with_manifest(manifest);
        self.push(&archive.gzip().await).await
    }

    /// Deploys a bundle to devices by name; returns the deployment's id.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn deploy(&self, bundle: &Bundle, devices: &[&str]) -> String {
        self.deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest.clone(),
            device_names: devices.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        })
        .await
        .expect("the deployment is accepted")
    }

    /// Creates a deployment as asked for; returns its id.
    pub async fn deploy_for(&self, request: CreateDeploymentRequest) -> Result<String, Status> {
        let answer = self.deployments().create_deployment(request).await?;
        let deployment = answer.into_inner().deployment;
        Ok(deployment.expect("an answer names the deployment").id)
    }

    /// Rolls a deployment back; returns the server's answer.
    pub async fn roll_back(&self, id: &str) -> Result<RollbackDeploymentResponse, Status> {
        let request = RollbackDeploymentRequest {
            deployment_id: id.to_owned(),
            ..Default::default()
        };
        let answer = self.deployments().rollback_deployment(request).await?;
        Ok(answer.into_inner())
    }

    /// One deployment.
    ///
    /// # Panics
    /// When there is none of this id.
    pub async fn deployment(&self, id: &str) -> Deployment {
        let request = GetDeploymentRequest {
            deployment_id: id.to_owned(),
        };
        let answer = self.deployments().get_deployment(request).await;
        let answer = answer.expect("the deployment is there").into_inner();
        answer.deployment.expect("an answer holds the deployment")
    }

    /// The bundles of the server as "name:version", newest first.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn bundle_names(&self) -> Vec<String> {
        let request = ListBundlesRequest::default();
        let answer = self.bundles().list_bundles(request).await;
        let bundles = answer.expect("bundles are listed").into_inner().bundles;
        let names = bundles.iter();
        names
            .map(|bundle| format!("{}:{}", bundle.name, bundle.version))
            .collect()
    }

    /// The targets of a deployment.
    ///
    /// # Panics
    /// When there is no such deployment.
    pub async fn targets(&self, id: &str) -> Vec<Target> {
        let request = ListTargetsRequest {
            deployment_id: id.to_owned(),
            ..Default::default()
        };
        let answer = self.deployments().list_targets(request).await;
        answer.expect("targets are listed").into_inner().targets
    }

    /// The only target of a deployment.
    ///
    /// # Panics
    /// When there is not exactly one.
    pub async fn target(&self, id: &str) -> Target {
        let mut targets = self.targets(id).await;
        assert_eq!(targets.len(), 1, "{targets:?}");
        targets.remove(0)
    }

    /// One device by name or id.
    pub async fn try_device(&self, device: &str) -> Result<Device, Status> {
        let request = GetDeviceRequest {
            device: device.to_owned(),
        };
        let answer = self.devices().get_device(request).await?;
        Ok(answer
            .into_inner()
            .device
            .expect("an answer holds the device"))
    }

    /// One device by name or id.
    ///
    /// # Panics
    /// When there is none.
    pub async fn device(&self, device: &str) -> Device {
        self.try_device(device).await.expect("the device is there")
    }

    /// Sets labels of a device.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn label(&self, device: &str, labels: &[(&str, &str)]) {
        let set = labels
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let request = UpdateDeviceLabelsRequest {
            device: device.to_owned(),
            set: set.collect(),
            ..Default::default()
        };
        let answer = self.devices().update_device_labels(request).await;
        answer.expect("the labels are set");
    }
}

/// Checks that a target failed, and for this reason.
///
/// # Panics
/// When it did not.
pub fn failed_with(target: &Target, reason: FailureReason) {
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, reason),
        "{target:?}"
    );
}
