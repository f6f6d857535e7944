//! The gRPC services: each handler validates, makes one call, and maps the answer.
//!
//! Who may call what was decided before a handler runs, see [`crate::edge::auth`].

pub mod access;
pub mod agents;
pub mod audit;
pub mod bundles;
pub mod configurations;
pub mod deployments;
pub mod devices;
pub mod events;
pub mod feed;
pub mod fleet;
pub mod health;
pub mod plan;
mod raw_body;
pub mod rollouts;
mod wire;

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kernex_proto::{
    archive::Limits,
    ids::{ClusterId, Digest},
    v1::{
        access_service_server::AccessServiceServer, agent_service_server::AgentServiceServer,
        audit_service_server::AuditServiceServer, bundle_service_server::BundleServiceServer,
        configuration_service_server::ConfigurationServiceServer,
        deployment_service_server::DeploymentServiceServer,
        device_service_server::DeviceServiceServer, event_service_server::EventServiceServer,
        fleet_service_server::FleetServiceServer, plan_service_server::PlanServiceServer,
        rollout_service_server::RolloutServiceServer,
    },
};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

use self::{feed::Feed, raw_body::RawBodyService};
use crate::{
    blobs::Blobs,
    delivery::{registry::Registry, wake_ups::WakeUps},
    edge::{
        answers::{Fed, fed},
        auth::{Authenticator, principal},
    },
    lifecycle::Tasks,
    metrics::{GaugeGuard, Metrics},
    session::Sessions,
    store::{OperatorStore, View},
};

/// Largest message of an operator: a chunk of a bundle, or a request with many devices.
const REQUEST_LIMIT: usize = 4 << 20;
/// Largest message of an agent: a Hello with everything it holds, or an outcome with its output.
const AGENT_LIMIT: usize = 2 << 20;
/// Largest answer: a page of a thousand rows.
const RESPONSE_LIMIT: usize = 64 << 20;

/// [`agents::Agents`] behind its gRPC.
pub(crate) type AgentsService = RawBodyService<AgentServiceServer<agents::Agents>>;

/// The parts that the services share.
#[derive(Debug)]
pub struct Api {
    /// Rows, over the connections of operators: what devices ask for goes over those of
    /// [`Sessions`]. Handlers ask through [`Api::view`].
    pub store: OperatorStore,
    pub blobs: Blobs,
    /// Which devices have a session here.
    pub registry: Arc<Registry>,
    /// Woken when something may be due for a device.
    pub wake_ups: Arc<WakeUps>,
    pub authenticator: Authenticator,
    pub sessions: Arc<Sessions>,
    /// Owns the tasks of sessions and of uploads.
    pub tasks: Tasks,
    pub metrics: Arc<Metrics>,
    /// The fleet's events, for watchers.
    pub feed: Arc<Feed>,
    /// Ends watches when the server stops.
    pub draining: CancellationToken,
    /// Limits how many enrolments are worked on at once.
    pub enrolments: Semaphore,
    /// A bundle's row and bytes change together: an upload must not lose its bytes to a deletion of
    /// the same digest.
    pub bundle_changes: Mutex<()>,
    pub settings: ApiSettings,
}

/// Values that handlers answer with or check against. They do not change while the server runs.
#[derive(Debug)]
pub struct ApiSettings {
    /// The id of this installation.
    pub cluster: ClusterId,
    /// What enrolment tokens pin; zero without TLS.
    pub ca_pin: Digest,
    /// Largest bundle in bytes.
    pub max_bundle_size: u64,
    /// How much a bundle may hold.
    pub archive_limits: Limits,
    /// Failures of a bundle in a row after which a device is left out.
    pub penalty_after: u32,
}

impl Api {
    /// The store as the caller of this request may see it.
    fn view<T>(&self, request: &Request<T>) -> Result<View, Status> {
        Ok(self.store.view(principal(request)?.scope()))
    }
}

macro_rules! limited {
    ($server:ident, $service:expr, $limit:expr) => {
        $server::new($service)
            .max_decoding_message_size($limit)
            .max_encoding_message_size(RESPONSE_LIMIT)
    };
}

/// The agents' service, with its limits.
#[must_use]
pub(crate) fn agents(api: &Arc<Api>) -> AgentsService {
    RawBodyService(limited!(
        AgentServiceServer,
        agents::Agents(Arc::clone(api)),
        AGENT_LIMIT
    ))
}

/// Every other service, with its limits.
#[must_use]
pub fn routes(api: &Arc<Api>) -> Routes {
    Routes::new(limited!(
        DeviceServiceServer,
        devices::Devices(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(RawBodyService(limited!(
        BundleServiceServer,
        bundles::Bundles(Arc::clone(api)),
        REQUEST_LIMIT
    )))
    .add_service(limited!(
        DeploymentServiceServer,
        deployments::Deployments(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        RolloutServiceServer,
        rollouts::Rollouts(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        EventServiceServer,
        events::Events(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        ConfigurationServiceServer,
        configurations::Configurations(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        PlanServiceServer,
        plan::Plans(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        FleetServiceServer,
        fleet::Fleet(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        AccessServiceServer,
        access::Access(Arc::clone(api)),
        REQUEST_LIMIT
    ))
    .add_service(limited!(
        AuditServiceServer,
        audit::Audit(Arc::clone(api)),
        REQUEST_LIMIT
    ))
}

/// What ends the wait of a watch.
enum Awaited {
    Change,
    Stop,
}

/// Waits for a change in the store and then a moment more, so that many changes are read together.
/// Returns after a while in any case: other replicas change rows too.
async fn await_change(changes: &mut watch::Receiver<u64>, draining: &CancellationToken) -> Awaited {
    const SETTLE: Duration = Duration::from_millis(50);
    const ANYWAY: Duration = Duration::from_secs(2);
    tokio::select! {
        () = draining.cancelled() => return Awaited::Stop,
        () = tokio::time::sleep(ANYWAY) => return Awaited::Change,
        changed = changes.changed() => if changed.is_err() { return Awaited::Stop },
    }
    tokio::select! {
        () = draining.cancelled() => Awaited::Stop,
        () = tokio::time::sleep(SETTLE) => Awaited::Change,
    }
}

/// The answer to a watch. It is counted until its stream is dropped.
fn watch<T: Send + 'static>(
    metrics: &Metrics,
    ahead: usize,
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Response<Fed<T>> {
    let held = GaugeGuard::new(&metrics.edge.watchers);
    let counted = answers.inspect(move |_| {
        let _one = &held;
    });
    fed(ahead, counted)
}
