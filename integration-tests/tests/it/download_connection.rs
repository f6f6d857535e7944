//! Downloads keep out of the way of everything else. All connections of an agent share one narrow
//! link here, with a queue of 32 KiB in front of it.

use std::{
    fs,
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, Operator, Proxy, ServerOptions, TestAgent, TestServer,
    both_databases, bundle,
    proxy::Protocol,
    wait::{next_message, seen, wait_for_within},
    wait_for,
};
use kernex_proto::v1::{AttemptState, Bundle, DeploymentResult, HaltDeploymentRequest};

/// A server, an agent behind a link of its own, and a bundle of so many megabytes.
struct Setup {
    server: TestServer,
    operator: Operator,
    proxy: Proxy,
    agent: TestAgent,
    bundle: Bundle,
}

impl Setup {
    async fn new(database: Database, megabytes: usize) -> Self {
        Self::with(database, megabytes, AgentOptions::named("edge-1")).await
    }

    async fn with(database: Database, megabytes: usize, options: AgentOptions) -> Self {
        let often = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "500ms");
        let server = TestServer::start_with(database, often).await;
        let operator = server.operator();
        let proxy = Proxy::to(server.port()).await;
        let agent = server.agent_with(options.through(&proxy)).await;
        let bundle = bundle::noisy("app", "1.0", megabytes, "true").await;
        let bundle = operator.push(&bundle).await;
        Self {
            server,
            operator,
            proxy,
            agent,
            bundle,
        }
    }

    /// Bytes of downloads on the agent's disk.
    fn downloaded(&self) -> u64 {
        let files = fs::read_dir(self.agent.state.join("tmp"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .map(|file| file.metadata().map_or(0, |meta| meta.len()))
            .sum()
    }

    async fn until_downloaded(&self, bytes: u64) {
        // A narrow link is slow, and other tests run beside it.
        let limit = Duration::from_secs(300);
        wait_for_within(limit, "some of the download to be on the disk", || async {
            seen(self.downloaded() >= bytes, self.downloaded())
        })
        .await;
    }
}

both_databases![
    a_halt_overtakes_a_download_on_a_narrow_link,
    heartbeats_go_on_while_a_slow_link_is_full_of_a_download,
    a_download_has_a_connection_of_its_own_while_it_lasts,
    a_download_resumes_after_its_connection_is_lost_and_the_session_stays,
    a_download_keeps_to_the_rate_limit_of_the_device,
];

async fn a_halt_overtakes_a_download_on_a_narrow_link(database: Database) {
    let setup = Setup::new(database, 20).await;
    // The whole download would take more than two minutes.
    setup.proxy.throttle(150_000);
    let id = setup.operator.deploy(&setup.bundle, &["edge-1"]).await;
    setup.until_downloaded(1 << 20).await;
    let before = setup.proxy.bytes_down();
    let request = HaltDeploymentRequest {
        deployment_id: id,
        ..Default::default()
    };
    let stream = setup.operator.rollouts().halt_deployment(request).await;
    let mut stream = stream.expect("the halt is taken").into_inner();
    let halted = loop {
        let said = next_message(&mut stream).await.expect("it is answered");
        let said = said.expect("it ends when the device has acknowledged");
        if said.waiting == 0 {
            break said;
        }
    };
    let passed = setup.proxy.bytes_down() - before;
    let device = halted.devices.last().expect("the device was not done");
    assert!(device.acknowledged, "{halted:?}");
    assert_eq!(device.state(), AttemptState::Cancelled, "{halted:?}");
    // Bytes are the clock here, because the machine may be busy: 150 kB is one second.
    assert!(
        passed < 600_000,
        "{passed} bytes came before the halt was acknowledged"
    );
}

async fn heartbeats_go_on_while_a_slow_link_is_full_of_a_download(database: Database) {
    let setup = Setup::new(database, 20).await;
    let impatient = [
        "config",
        "set",
        "impatient",
        "--to",
        "*",
        "--silence",
        "10s",
    ];
    let _ = Ctl::on(&setup.server).ok(&impatient);
    wait_for("the agent to be impatient", || async {
        seen(
            setup
                .agent
                .process()
                .has_said("took the configuration over", 0),
            (),
        )
    })
    .await;
    let before = setup.agent.process().said();
    setup.proxy.throttle(40_000);
    let id = setup.operator.deploy(&setup.bundle, &["edge-1"]).await;
    setup.until_downloaded(256 << 10).await;
    let seen_at = setup.operator.device("edge-1").await.last_seen;
    // Longer than the agent waits for a message of the server.
    setup.until_downloaded(768 << 10).await;
    let device = setup.operator.online("edge-1").await;
    assert!(
        device.last_seen.map(|at| at.seconds) > seen_at.map(|at| at.seconds),
        "{device:?}"
    );
    let log = setup.agent.process();
    assert!(
        !log.has_said("session open", before),
        "the session was lost: {}",
        log.tail()
    );
    assert!(
        !log.has_said("the download was cut", before),
        "{}",
        log.tail()
    );
    setup.proxy.throttle(0);
    assert_eq!(
        setup.operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
}

async fn a_download_has_a_connection_of_its_own_while_it_lasts(database: Database) {
    let setup = Setup::new(database, 4).await;
    assert_eq!(setup.proxy.open(), 1, "the session's");
    setup.proxy.throttle(400_000);
    let id = setup.operator.deploy(&setup.bundle, &["edge-1"]).await;
    setup.until_downloaded(512 << 10).await;
    assert_eq!(setup.proxy.open(), 2, "the session's and the download's");
    setup.proxy.throttle(0);
    assert_eq!(
        setup.operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    wait_for("the download's connection to be closed", || async {
        seen(setup.proxy.open() == 1, setup.proxy.open())
    })
    .await;
}

async fn a_download_resumes_after_its_connection_is_lost_and_the_session_stays(database: Database) {
    const SIZE: u64 = 8 << 20;
    let setup = Setup::new(database, 8).await;
    let before = (setup.agent.process().said(), setup.proxy.bytes_down());
    setup.proxy.throttle(1 << 20);
    let id = setup.operator.deploy(&setup.bundle, &["edge-1"]).await;
    for part in [SIZE / 4, SIZE / 2] {
        setup.until_downloaded(part).await;
        setup.proxy.drop_newest();
    }
    wait_for("the download to be cut", || async {
        seen(
            setup
                .agent
                .process()
                .has_said("the download was cut", before.0),
            (),
        )
    })
    .await;
    assert_eq!(
        setup.operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let log = setup.agent.process();
    assert!(!log.has_said("session open", before.0), "{}", log.tail());
    let passed = setup.proxy.bytes_down() - before.1;
    assert!(
        passed < SIZE * 13 / 10,
        "{passed} bytes for a bundle of {SIZE}: it was not taken up where it was"
    );
}

async fn a_download_keeps_to_the_rate_limit_of_the_device(database: Database) {
    let limited = AgentOptions::named("edge-1").env("KERNEX_AGENT_MAX_DOWNLOAD_RATE", "1MiB");
    let setup = Setup::with(database, 4, limited).await;
    let begun = Instant::now();
    let id = setup.operator.deploy(&setup.bundle, &["edge-1"]).await;
    assert_eq!(
        setup.operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    // A busy machine may be slower, never faster. The first window is not limited.
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_postgres),
    ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
)]
async fn a_download_may_come_from_another_replica_than_the_session_is_with() {
    let first = TestServer::start(Database::Postgres).await;
    let second = first.replica().await;
    let ports = vec![first.port(), second.port()];
    let proxy = Proxy::balancing(Protocol::Tls, ports).await;
    // The agent enrols at the first replica, has its session with the second, and downloads from
    // the first.
    let agent = first
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let operator = first.operator();
    let bundle = operator
        .push(&bundle::noisy("app", "1.0", 4, "true").await)
        .await;
    let before = agent.process().said();
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    assert_eq!(proxy.connections(), 3, "{}", agent.process().log());
    assert!(
        !agent.process().has_said("session open", before),
        "{}",
        agent.process().log()
    );
}
