//! How the parts of the server are made and told of each other. How they live and end is in
//! `supervise.rs`.

use std::{future::Future, sync::Arc, time::Duration};

use kernex_proto::ids::Digest;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use uuid::Uuid;

use crate::{
    answers::{AnswersLayer, Measured},
    api::{self, Api, agents::ENROLMENTS, feed::Feed},
    auth::{AuthLayer, Authenticator},
    config::Config,
    connections::{Connections, Front, Limits, Strangers},
    dispatcher::{self, Hints},
    lifecycle::Tasks,
    listener::{self, Acceptance},
    metrics::Metrics,
    monitor::Monitor,
    observe::TraceLayer,
    parts::Parts,
    recorder::Recorder,
    registry::Registry,
    revocations::Revocation,
    rollout,
    session::{HANDSHAKES, Sessions, Steps},
    startup::Ground,
    upkeep,
};

/// A stranger that holds a place which others wait for surely has it for so long; it needs far
/// less.
const PATIENCE: Duration = Duration::from_secs(2);

/// What nearly every part holds.
pub(crate) struct Assembly {
    pub(crate) ground: Ground,
    pub(crate) replica: Uuid,
    pub(crate) registry: Arc<Registry>,
    /// Asks everybody to finish.
    pub(crate) soft: CancellationToken,
    /// Ends those that outlast the sessions: who records, and who watches.
    pub(crate) last: CancellationToken,
    hints: Arc<Hints>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Assembly {
    pub(crate) fn new(
        ground: Ground,
        replica: Uuid,
        tasks: Tasks,
        soft: CancellationToken,
    ) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(ground.store.figures().clone())),
            ground,
            replica,
            registry: Arc::default(),
            soft,
            last: CancellationToken::new(),
            hints: Arc::default(),
            tasks,
        }
    }

    /// Starts every part on bound listeners: the public one, and the one for metrics and probes.
    /// `heard` is the number of the newest revocation that is known. What is returned waits until
    /// the last connection is closed.
    pub(crate) fn start(
        &self,
        config: &Config,
        listener: TcpListener,
        monitoring: Option<TcpListener>,
        heard: u64,
        parts: &mut Parts,
    ) -> anyhow::Result<impl Future<Output = ()> + use<>> {
        let (recorder, recording) = Recorder::new(
            self.ground.store.clone(),
            Arc::clone(&self.registry),
            Arc::clone(&self.hints),
            Arc::clone(&self.metrics),
            self.last.clone(),
        );
        parts.start("recorder", recording);
        let (steps, stepping) = Steps::new(
            self.ground.store.clone(),
            Arc::clone(&self.metrics),
            self.last.clone(),
        );
        parts.start("sessions", stepping);
        self.tell_of_revocations(recorder.clone());
        if let Some(listener) = monitoring {
            tracing::info!(address = %listener.local_addr()?, "metrics on /metrics, probes on /healthz and /readyz");
            let monitor = self.monitor(recorder.clone());
            // Probes are answered while the server drains, too.
            parts.start("metrics", monitor.serve(listener, self.last.clone()));
        }
        self.start_upkeep(config, heard, parts);
        let api = self.api(config, steps, recorder);
        self.serve(config, &api, listener, parts)
    }

    /// Answers on the public listener.
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
        // Also while the server drains: that is when who does not read is in the way.
        parts.start("stalled", answers.stalled().run(self.last.clone()));
        let watched = api::health::watch(self.ground.store.clone(), health, self.soft.clone());
        parts.start("health", watched);
        parts.start("feed", Arc::clone(&api.feed).run(self.soft.clone()));
        let service = ServiceBuilder::new()
            .map_response(Measured::of)
            .layer(TraceLayer)
            .layer(AuthLayer(api.authenticator.clone()))
            .layer(answers)
            .service(Front::new(api::agents(api), routes));
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

    /// How connections are accepted.
    fn acceptance(&self, config: &Config, parts: &mut Parts) -> anyhow::Result<Acceptance> {
        let tls = match &self.ground.identity {
            Some(identity) => {
                let renewal = upkeep::certificate(Arc::clone(identity), self.soft.clone());
                parts.start("certificate", renewal);
                Some(TlsAcceptor::from(Arc::new(identity.server_config()?)))
            }
            None => None,
        };
        let most = listener::room();
        tracing::info!(connections = most, "connections that may be held at once");
        let limits = Limits {
            probation: config.probation,
            patience: PATIENCE.min(config.probation),
            of_one_source: config.max_strangers_per_source,
            in_all: most,
        };
        let strangers = Strangers::new(limits, Arc::clone(&self.metrics));
        parts.start("strangers", Arc::clone(&strangers).watch(self.soft.clone()));
        Ok(Acceptance {
            most,
            tls,
            proxies: config.trusted_proxies.clone(),
            strangers,
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// Starts what goes on by itself: orders go out, deadlines pass, old rows go.
    fn start_upkeep(&self, config: &Config, heard: u64, parts: &mut Parts) {
        let store = || self.ground.store.clone();
        let registry = || Arc::clone(&self.registry);
        let hints = || Arc::clone(&self.hints);
        let (soft, last) = (|| self.soft.clone(), || self.last.clone());
        let dispatcher = dispatcher::run(store(), registry(), hints(), soft());
        parts.start("dispatcher", dispatcher);
        parts.start("rollouts", rollout::run(store(), hints(), soft()));
        parts.start(
            "lease",
            upkeep::lease(store(), registry(), self.replica, last()),
        );
        if !self.ground.store.is_alone() {
            parts.start("revocations", upkeep::revocations(store(), heard, last()));
        }
        let metrics = Arc::clone(&self.metrics);
        parts.start(
            "expiry",
            upkeep::expiry(store(), registry(), hints(), metrics, soft()),
        );
        parts.start("checkpoints", upkeep::checkpoints(store(), last()));
        parts.start(
            "pruning",
            upkeep::pruning(store(), config.retention, soft()),
        );
    }

    /// Sessions and reports of a revoked key end with the commit that revokes it.
    fn tell_of_revocations(&self, recorder: Recorder) {
        let registry = Arc::clone(&self.registry);
        self.ground.store.revocations().listen(move |revoked| {
            if let Revocation::Keys {
                device,
                epoch,
                cause,
            } = revoked
            {
                registry.revoke(device, epoch, cause);
                recorder.silence(device, epoch);
            }
        });
    }

    fn monitor(&self, recorder: Recorder) -> Monitor {
        Monitor::new(
            Arc::clone(&self.metrics),
            self.ground.store.clone(),
            Arc::clone(&self.registry),
            Arc::clone(&self.hints),
            recorder,
            self.soft.clone(),
        )
    }

    fn sessions(&self, config: &Config, steps: Steps, recorder: Recorder) -> Sessions {
        let identity = self.ground.identity.as_ref();
        Sessions {
            store: self.ground.store.clone(),
            registry: Arc::clone(&self.registry),
            steps,
            recorder,
            hints: Arc::clone(&self.hints),
            clock: self.ground.clock.clone(),
            cluster: self.ground.cluster,
            replica: self.replica,
            heartbeat_interval: config.heartbeat_interval,
            min_protocol: config.min_protocol,
            trust_bundle: identity
                .map_or_else(String::new, |identity| identity.ca_pem().to_owned()),
            plans: Arc::default(),
            admission: Arc::new(Semaphore::new(HANDSHAKES)),
            metrics: Arc::clone(&self.metrics),
            stall: config.answers.stall,
            draining: self.soft.clone(),
        }
    }

    fn api(&self, config: &Config, steps: Steps, recorder: Recorder) -> Arc<Api> {
        let identity = self.ground.identity.as_ref();
        Arc::new(Api {
            store: self.ground.store.for_operators(),
            blobs: self.ground.blobs.clone(),
            registry: Arc::clone(&self.registry),
            hints: Arc::clone(&self.hints),
            authenticator: Authenticator::new(self.ground.store.clone(), config.open_reflection),
            enrolments: Semaphore::new(ENROLMENTS),
            sessions: Arc::new(self.sessions(config, steps, recorder)),
            tasks: self.tasks.clone(),
            cluster: self.ground.cluster,
            ca_pin: identity.map_or(Digest([0; 32]), |identity| identity.ca_pin()),
            max_bundle_size: config.max_bundle_size,
            metrics: Arc::clone(&self.metrics),
            penalty_after: config.penalty_after,
            feed: Arc::new(Feed::new(self.ground.store.for_operators())),
            draining: self.soft.clone(),
            bundle_changes: Mutex::new(()),
        })
    }
}
