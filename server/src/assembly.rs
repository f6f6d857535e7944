//! Makes the parts of the server and connects them. How they live and end is in `supervise.rs`.

use std::{future::Future, sync::Arc, time::Duration};

use kernex_proto::{archive::Limits, ids::Digest};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use crate::{
    api::{self, Api, ApiSettings, agents::ENROLMENTS, feed::Feed},
    config::Config,
    delivery::{dispatcher, registry::Registry, wake_ups::WakeUps},
    edge::{
        answers::{AnswersLayer, Measured},
        auth::{AuthLayer, Authenticator},
        connections::{Connections, Router, StrangerLimits, Strangers},
        listener::{self, Acceptance},
        monitor::{Gauges, Monitor},
        observe::TraceLayer,
    },
    lifecycle::Tasks,
    metrics::Metrics,
    parts::Parts,
    recorder::Recorder,
    revocations::Revocation,
    session::{HANDSHAKES, SessionCommitter, SessionSettings, Sessions},
    startup::Foundation,
    store::{ReplicaId, Scope},
    upkeep::{self, open_phases},
};

/// Time that a stranger is sure of while others wait for its place. An honest one needs far less.
const PATIENCE: Duration = Duration::from_secs(2);

/// What most parts are given.
pub(crate) struct Assembly {
    pub(crate) foundation: Foundation,
    pub(crate) replica: ReplicaId,
    pub(crate) registry: Arc<Registry>,
    /// Asks all parts to finish.
    pub(crate) soft: CancellationToken,
    /// Ends the parts that outlast the sessions: the recorder, and those that watch.
    pub(crate) last: CancellationToken,
    wake_ups: Arc<WakeUps>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Assembly {
    pub(crate) fn new(
        foundation: Foundation,
        replica: ReplicaId,
        tasks: Tasks,
        soft: CancellationToken,
    ) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(foundation.store.figures().clone())),
            foundation,
            replica,
            registry: Arc::default(),
            soft,
            last: CancellationToken::new(),
            wake_ups: Arc::default(),
            tasks,
        }
    }

    /// Starts all parts on bound listeners: the public one, and the one for metrics and probes.
    /// `heard` is the number of the newest revocation that is known. The future that is returned
    /// ends when the last connection is closed.
    pub(crate) fn start(
        &self,
        config: &Config,
        listener: TcpListener,
        monitoring: Option<TcpListener>,
        heard: u64,
        parts: &mut Parts,
    ) -> anyhow::Result<impl Future<Output = ()> + use<>> {
        let (recorder, recording) = Recorder::new(
            self.foundation.store.clone(),
            Arc::clone(&self.registry),
            Arc::clone(&self.wake_ups),
            Arc::clone(&self.metrics),
            self.last.clone(),
        );
        parts.start("recorder", recording);
        let log = Arc::clone(self.foundation.store.log_queue());
        let last = self.last.clone();
        parts.start("log", async move { log.serve(last).await });
        let (committer, committing) = SessionCommitter::new(
            self.foundation.store.clone(),
            Arc::clone(&self.metrics),
            self.last.clone(),
        );
        parts.start("sessions", committing);
        self.tell_of_revocations(recorder.clone());
        if let Some(listener) = monitoring {
            tracing::info!(address = %listener.local_addr()?, "metrics on /metrics, probes on /healthz and /readyz");
            let monitor = self.monitor(recorder.clone());
            // Probes are answered during the drain, too.
            parts.start("metrics", monitor.serve(listener, self.last.clone()));
        }
        self.start_upkeep(config, heard, parts);
        let api = self.api(config, committer, recorder);
        self.serve(config, &api, listener, parts)
    }

    /// Connections that are open now.
    pub(crate) fn open_connections(&self) -> i64 {
        self.metrics.edge.connections_open.get()
    }

    fn serve(
        &self,
        config: &Config,
        api: &Arc<Api>,
        listener: TcpListener,
        parts: &mut Parts,
    ) -> anyhow::Result<impl Future<Output = ()> + use<>> {
        let (routes, health) = api::health::add(api::routes(api))?;
        let answers = AnswersLayer::new(
            config.answers,
            self.tasks.clone(),
            Arc::clone(&self.metrics),
            self.soft.clone(),
        )?;
        // During the drain, too, when peers that do not read hold up the stop.
        parts.start("stalled", answers.stalled().run(self.last.clone()));
        let watched = api::health::watch(self.foundation.store.clone(), health, self.soft.clone());
        parts.start("health", watched);
        let sightings = upkeep::sightings(api.authenticator.clone(), self.last.clone());
        parts.start("sightings", sightings);
        parts.start("feed", Arc::clone(&api.feed).run(self.soft.clone()));
        let service = ServiceBuilder::new()
            .map_response(Measured::wrap)
            .layer(TraceLayer::new(Arc::clone(&self.metrics)))
            .layer(AuthLayer(api.authenticator.clone()))
            .layer(answers)
            .service(Router::new(api::agents(api), routes));
        let connections = Connections::new(service, self.soft.clone());
        let serving = connections.clone();
        let acceptance = self.acceptance(config, parts)?;
        let accepting = listener::accept(
            listener,
            acceptance,
            move |connection| serving.serve(connection),
            self.soft.clone(),
        );
        parts.start("accept", accepting);
        Ok(async move { connections.closed().await })
    }

    fn acceptance(&self, config: &Config, parts: &mut Parts) -> anyhow::Result<Acceptance> {
        let tls = match &self.foundation.identity {
            Some(identity) => {
                let renewal = upkeep::certificate(Arc::clone(identity), self.soft.clone());
                parts.start("certificate", renewal);
                Some(TlsAcceptor::from(Arc::new(identity.server_config()?)))
            }
            None => None,
        };
        let most = listener::room();
        tracing::info!(connections = most, "connections that may be held at once");
        let limits = StrangerLimits {
            probation: config.network.strangers.probation,
            patience: PATIENCE.min(config.network.strangers.probation),
            of_one_source: config.network.strangers.max_per_source,
            in_all: most,
        };
        let strangers = Strangers::new(limits, Arc::clone(&self.metrics));
        parts.start("strangers", Arc::clone(&strangers).watch(self.soft.clone()));
        Ok(Acceptance {
            most,
            tls,
            proxies: config.network.trusted_proxies.clone(),
            strangers,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Starts what happens without a request: orders go out, deadlines pass, old rows go.
    fn start_upkeep(&self, config: &Config, heard: u64, parts: &mut Parts) {
        let store = || self.foundation.store.clone();
        let registry = || Arc::clone(&self.registry);
        let wake_ups = || Arc::clone(&self.wake_ups);
        let (soft, last) = (|| self.soft.clone(), || self.last.clone());
        // Agents know the usual limits, and a deploy goes to a whole fleet.
        let limits = config.bundles.archive_limits;
        let limits = (limits != Limits::default()).then(|| limits.into());
        let dispatcher = dispatcher::run(store(), registry(), wake_ups(), limits, soft());
        parts.start("dispatcher", dispatcher);
        parts.start("rollouts", open_phases::run(store(), wake_ups(), soft()));
        parts.start(
            "lease",
            upkeep::lease(store(), registry(), self.replica, last()),
        );
        parts.start("revocations", upkeep::revocations(store(), heard, last()));
        parts.start(
            "expiry",
            upkeep::expiry(store(), registry(), wake_ups(), soft()),
        );
        parts.start("checkpoints", upkeep::checkpoints(store(), last()));
        parts.start(
            "pruning",
            upkeep::pruning(store(), config.retention, soft()),
        );
    }

    /// Ends the sessions of a revoked key, and drops its reports, with the commit that revokes it.
    fn tell_of_revocations(&self, recorder: Recorder) {
        let registry = Arc::clone(&self.registry);
        self.foundation.store.revocations().listen(move |revoked| {
            if let Revocation::Keys {
                device,
                epoch,
                cause,
            } = revoked
            {
                registry.revoke(device, epoch, cause);
                recorder.drop_heartbeat(device, epoch);
            }
        });
    }

    fn monitor(&self, recorder: Recorder) -> Monitor {
        let gauges = Gauges {
            metrics: Arc::clone(&self.metrics),
            store: self.foundation.store.clone(),
            registry: Arc::clone(&self.registry),
            wake_ups: Arc::clone(&self.wake_ups),
            recorder,
            blobs: self.foundation.blobs.clone(),
            identity: self.foundation.identity.clone(),
        };
        Monitor::new(gauges, self.soft.clone())
    }

    fn sessions(
        &self,
        config: &Config,
        committer: SessionCommitter,
        recorder: Recorder,
    ) -> Sessions {
        let identity = self.foundation.identity.as_ref();
        Sessions {
            store: self.foundation.store.clone(),
            registry: Arc::clone(&self.registry),
            committer,
            recorder,
            wake_ups: Arc::clone(&self.wake_ups),
            plans: Arc::default(),
            clock: self.foundation.clock.clone(),
            admission: Semaphore::new(HANDSHAKES),
            metrics: Arc::clone(&self.metrics),
            draining: self.soft.clone(),
            settings: SessionSettings {
                cluster: self.foundation.cluster,
                replica: self.replica,
                heartbeat_interval: config.heartbeat_interval,
                min_protocol: config.min_protocol,
                trust_bundle: identity
                    .map_or_else(String::new, |identity| identity.ca_pem().to_owned()),
                stall: config.answers.stall,
            },
        }
    }

    fn api(&self, config: &Config, committer: SessionCommitter, recorder: Recorder) -> Arc<Api> {
        let identity = self.foundation.identity.as_ref();
        let operators = self.foundation.store.for_operators();
        let feed = Feed::new(operators.view(Scope::Everything));
        Arc::new(Api {
            store: operators,
            blobs: self.foundation.blobs.clone(),
            registry: Arc::clone(&self.registry),
            wake_ups: Arc::clone(&self.wake_ups),
            authenticator: Authenticator::new(
                self.foundation.store.clone(),
                config.network.open_reflection,
            ),
            sessions: Arc::new(self.sessions(config, committer, recorder)),
            tasks: self.tasks.clone(),
            metrics: Arc::clone(&self.metrics),
            feed: Arc::new(feed),
            draining: self.soft.clone(),
            enrolments: Semaphore::new(ENROLMENTS),
            bundle_changes: Mutex::new(()),
            settings: ApiSettings {
                cluster: self.foundation.cluster,
                ca_pin: identity.map_or(Digest([0; 32]), |identity| identity.ca_pin()),
                max_bundle_size: config.bundles.max_size,
                archive_limits: config.bundles.archive_limits,
                penalty_after: config.penalty_after,
            },
        })
    }
}
