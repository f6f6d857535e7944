//! The top: every long-lived task is started here, watched, and awaited, so that none dies silently.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::anyhow;
use kernex_proto::ids::Digest;
use rand::Rng as _;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
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
    error::chain,
    lifecycle::{Shutdown, Tasks},
    listener::{self, Acceptance},
    metrics::Metrics,
    monitor::Monitor,
    observe::TraceLayer,
    recorder::Recorder,
    registry::Registry,
    revocations::Revocation,
    rollout,
    session::{HANDSHAKES, Sessions, Steps},
    startup::{self, Ground},
    store::Store,
    upkeep,
};

/// Writing the last reports and closing the database may take this long.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A stranger that holds a place which others wait for surely has it for so long; it needs far less.
const PATIENCE: Duration = Duration::from_secs(2);
/// Agents come back over this time after a drain, and not before the first of these moments.
const COME_BACK: (u64, u64) = (200, 5_200);

/// Runs the control plane on a bound listener until it is asked to stop. An error means that it could not start or that
/// one of its parts failed; a stop, soft or hard, is no error.
pub async fn run(
    config: Config,
    listener: std::net::TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let monitoring = config
        .metrics_listen
        .map(listener::bind_metrics)
        .transpose()?;
    let ground = tokio::select! {
        ground = startup::prepare(&config) => ground?,
        () = shutdown.soft.cancelled() => return Ok(()),
    };
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let replica = Uuid::now_v7();
    ground.store.close_replica_sessions(replica).await?;
    ground.store.renew_lease(replica, upkeep::LEASE).await?;
    // Before anybody is let in.
    let heard = ground.store.revocation_number().await?;

    let soft = shutdown.soft.clone();
    // Ends everything at the drain deadline even when nobody asks for a hard stop.
    let tasks_shutdown = Shutdown {
        soft: soft.clone(),
        hard: shutdown.hard.child_token(),
    };
    let tasks = Tasks::new(&tasks_shutdown);
    let registry = Arc::new(Registry::default());
    let hints = Arc::new(Hints::default());
    let metrics = Arc::new(Metrics::new(ground.store.figures().clone()));
    let recorder_stop = CancellationToken::new();
    let (recorder, recording) = Recorder::new(
        ground.store.clone(),
        Arc::clone(&registry),
        Arc::clone(&hints),
        Arc::clone(&metrics),
        recorder_stop.clone(),
    );
    let (steps, stepping) = Steps::new(
        ground.store.clone(),
        Arc::clone(&metrics),
        recorder_stop.clone(),
    );
    let (told, silenced) = (Arc::clone(&registry), recorder.clone());
    ground.store.revocations().listen(move |revoked| {
        if let Revocation::Keys {
            device,
            epoch,
            cause,
        } = revoked
        {
            told.revoke(device, epoch, cause);
            silenced.silence(device, epoch);
        }
    });
    let monitor = Monitor::new(
        Arc::clone(&metrics),
        ground.store.clone(),
        Arc::clone(&registry),
        Arc::clone(&hints),
        recorder.clone(),
        soft.clone(),
    );
    let api = assemble(
        &config, &ground, replica, &registry, &hints, steps, recorder, &metrics, &tasks, &soft,
    );
    let (routes, health) = api::health::add(api::routes(&api))?;
    let answers = AnswersLayer::new(
        config.answers,
        tasks.clone(),
        Arc::clone(&metrics),
        soft.clone(),
    )?;
    let stalled = answers.stalled();
    let service = ServiceBuilder::new()
        .map_response(Measured::of)
        .layer(TraceLayer)
        .layer(AuthLayer(api.authenticator.clone()))
        .layer(answers)
        .service(Front::new(api::agents(&api), routes));

    let mut parts = Parts::default();
    let tls = match &ground.identity {
        Some(identity) => {
            let renewal = upkeep::certificate(Arc::clone(identity), soft.clone());
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
    let strangers = Strangers::new(limits, Arc::clone(&metrics));
    parts.start("strangers", Arc::clone(&strangers).watch(soft.clone()));
    let connections = Connections::new(service, soft.clone());
    let serve = {
        let connections = connections.clone();
        move |connection| connections.serve(connection)
    };
    parts.start(
        "accept",
        listener::accept(
            listener,
            Acceptance {
                most,
                tls,
                proxies: config.trusted_proxies.clone(),
                strangers,
                metrics: Arc::clone(&metrics),
            },
            serve,
            soft.clone(),
        ),
    );
    let store = &ground.store;
    parts.start(
        "dispatcher",
        dispatcher::run(
            store.clone(),
            Arc::clone(&registry),
            Arc::clone(&hints),
            soft.clone(),
        ),
    );
    parts.start(
        "rollouts",
        rollout::run(store.clone(), Arc::clone(&hints), soft.clone()),
    );
    parts.start(
        "lease",
        upkeep::lease(
            store.clone(),
            Arc::clone(&registry),
            replica,
            recorder_stop.clone(),
        ),
    );
    if !store.is_alone() {
        parts.start(
            "revocations",
            upkeep::revocations(store.clone(), heard, recorder_stop.clone()),
        );
    }
    parts.start(
        "expiry",
        upkeep::expiry(
            store.clone(),
            Arc::clone(&registry),
            hints,
            Arc::clone(&metrics),
            soft.clone(),
        ),
    );
    parts.start(
        "checkpoints",
        upkeep::checkpoints(store.clone(), recorder_stop.clone()),
    );
    parts.start(
        "pruning",
        upkeep::pruning(store.clone(), config.retention, soft.clone()),
    );
    parts.start(
        "health",
        api::health::watch(store.clone(), health, soft.clone()),
    );
    parts.start("feed", Arc::clone(&api.feed).run(soft.clone()));
    // Also while the server drains: that is when who does not read is in the way.
    parts.start("stalled", stalled.run(recorder_stop.clone()));
    parts.start("recorder", recording);
    parts.start("sessions", stepping);
    if let Some(listener) = monitoring {
        tracing::info!(address = %listener.local_addr()?, "metrics on /metrics, probes on /healthz and /readyz");
        // Probes are answered while the server drains, too.
        parts.start("metrics", monitor.serve(listener, recorder_stop.clone()));
    }
    announce(&config, &ground, address);

    let failure = tokio::select! {
        // A stop comes first: the parts end because of it.
        biased;
        () = shutdown.hard.cancelled() => None,
        () = soft.cancelled() => None,
        ended = parts.unexpected_end() => Some(ended),
    };
    if let Some(failure) = &failure {
        tracing::error!(error = format!("{failure:#}"), "stopping after a failure");
    }
    soft.cancel();

    let drained = registry.drain(come_back);
    tracing::info!(sessions = drained, "stopping");
    let finished = async {
        tokio::join!(connections.closed(), tasks.finished(Duration::MAX));
    };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(config.drain_deadline) => {
            tracing::warn!(left = tasks.len(), "the drain deadline passed; dropping what is left");
        }
        () = shutdown.hard.cancelled() => {}
    }
    tasks_shutdown.hard.cancel();
    // Sessions are over now, so nothing more reaches the recorder.
    recorder_stop.cancel();
    tokio::select! {
        () = parts.finished() => {}
        () = tokio::time::sleep(LAST_WORDS) => tracing::warn!("some parts did not end in time"),
        () = shutdown.hard.cancelled() => {}
    }
    drop(api);
    if !shutdown.hard.is_cancelled() {
        leave(ground.store, replica).await;
    }
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}

async fn leave(store: Store, replica: Uuid) {
    let leaving = async {
        if let Err(error) = store.close_replica_sessions(replica).await {
            tracing::warn!(error = %chain(&error), "sessions not marked as closed; the lease will end them");
        }
        if let Err(error) = store.close().await {
            tracing::warn!(error = %chain(&error), "database not closed in good order");
        }
    };
    if tokio::time::timeout(LAST_WORDS, leaving).await.is_err() {
        tracing::warn!("the database did not answer at the end");
    }
}

fn come_back() -> Duration {
    Duration::from_millis(rand::thread_rng().gen_range(COME_BACK.0..COME_BACK.1))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the one place where the parts meet"
)]
fn assemble(
    config: &Config,
    ground: &Ground,
    replica: Uuid,
    registry: &Arc<Registry>,
    hints: &Arc<Hints>,
    steps: Steps,
    recorder: Recorder,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
    draining: &CancellationToken,
) -> Arc<Api> {
    let identity = ground.identity.as_ref();
    let sessions = Arc::new(Sessions {
        store: ground.store.clone(),
        registry: Arc::clone(registry),
        steps,
        recorder,
        hints: Arc::clone(hints),
        clock: ground.clock.clone(),
        cluster: ground.cluster,
        replica,
        heartbeat_interval: config.heartbeat_interval,
        min_protocol: config.min_protocol,
        trust_bundle: identity.map_or_else(String::new, |identity| identity.ca_pem().to_owned()),
        plans: Arc::default(),
        admission: Arc::new(Semaphore::new(HANDSHAKES)),
        metrics: Arc::clone(metrics),
        stall: config.answers.stall,
        draining: draining.clone(),
    });
    Arc::new(Api {
        store: ground.store.for_operators(),
        blobs: ground.blobs.clone(),
        registry: Arc::clone(registry),
        hints: Arc::clone(hints),
        authenticator: Authenticator::new(ground.store.clone(), config.open_reflection),
        enrolments: Semaphore::new(ENROLMENTS),
        sessions,
        tasks: tasks.clone(),
        cluster: ground.cluster,
        ca_pin: identity.map_or(Digest([0; 32]), |identity| identity.ca_pin()),
        max_bundle_size: config.max_bundle_size,
        metrics: Arc::clone(metrics),
        penalty_after: config.penalty_after,
        feed: Arc::new(Feed::new(ground.store.for_operators())),
        draining: draining.clone(),
        bundle_changes: Mutex::new(()),
    })
}

/// The long-lived tasks by name.
#[derive(Default)]
struct Parts(JoinSet<&'static str>);

impl Parts {
    fn start(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits for a part that ends although nothing stops.
    async fn unexpected_end(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(Ok(name)) => anyhow!("the part `{name}` ended by itself"),
            Some(Err(error)) => anyhow!(error).context("a part of the server failed"),
            None => anyhow!("nothing runs"),
        }
    }

    async fn finished(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the server failed while stopping");
            }
        }
    }
}

/// Says that the server is up; at the first start also what to type next.
#[expect(
    clippy::print_stdout,
    reason = "what an operator copies is data, not a log line"
)]
fn announce(config: &Config, ground: &Ground, address: std::net::SocketAddr) {
    tracing::info!(%address, tls = ground.identity.is_some(), cluster = %ground.cluster, "listening");
    if !(config.announce && ground.first) {
        return;
    }
    let host = config
        .public_addresses
        .first()
        .map_or("localhost", String::as_str);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let data = std::fs::canonicalize(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let (port, data) = (address.port(), data.display());
    match &ground.identity {
        Some(identity) => {
            println!("CA pin (SHA-256): {}", identity.ca_pin());
            println!(
                "Next: kernexctl context add local --server https://{host}:{port} --ca {data}/ca.pem --token-file {data}/admin.token"
            );
        }
        None => println!(
            "Next: kernexctl context add local --server http://{host}:{port} --token-file {data}/admin.token"
        ),
    }
}
