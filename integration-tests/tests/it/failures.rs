//! Failures of the network and of the bundle store: reports and downloads arrive all the same.

use std::fs;

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, Proxy, TestServer, both_databases, bundle::noisy,
    operator::failed_with, wait::seen, wait_for,
};
use kernex_proto::v1::{AttemptState, DeploymentResult, FailureReason};

both_databases![
    a_download_that_is_cut_resumes_where_it_was,
    a_download_ends_with_its_session_on_a_silently_dead_link,
    a_download_over_a_dead_link_is_tried_again,
    a_bundle_missing_from_the_store_fails_the_download,
    a_bundle_damaged_in_the_store_is_noticed,
    a_report_that_cannot_be_delivered_is_kept_and_applied_once,
    a_report_survives_a_killed_server_and_a_restarted_agent,
];

async fn a_download_that_is_cut_resumes_where_it_was(database: Database) {
    const SIZE: u64 = 24 << 20;
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let bundle = operator.push(&noisy("app", "1.0", 24, "true").await).await;
    let before = proxy.bytes_down();
    proxy.cut_after(SIZE * 6 / 10);
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for(
        "the network to be cut in the middle of the download",
        || async { seen(proxy.is_cut(), proxy.bytes_down()) },
    )
    .await;
    operator.offline("edge-1").await;
    let target = operator.target(&id).await;
    assert!(
        !matches!(
            target.state(),
            AttemptState::Failed | AttemptState::Succeeded
        ),
        "it stays open: {target:?}"
    );
    proxy.heal();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let passed = proxy.bytes_down() - before;
    assert!(
        passed < SIZE * 13 / 10,
        "{passed} bytes went down the wire for a bundle of {SIZE}"
    );
    assert_eq!(
        fs::metadata(agent.current("app").unwrap().join("payload.bin"))
            .unwrap()
            .len(),
        SIZE
    );
}

async fn a_download_ends_with_its_session_on_a_silently_dead_link(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let impatient = ["config", "set", "impatient", "--to", "*", "--silence", "2s"];
    let _ = Ctl::on(&server).ok(&impatient);
    wait_for("the agent to be impatient", || async {
        seen(
            agent.process().has_said("took the configuration over", 0),
            (),
        )
    })
    .await;
    let bundle = operator.push(&noisy("app", "1.0", 4, "true").await).await;
    // Slow, so that the download is still running when the link dies.
    proxy.throttle(64 << 10);
    let before = proxy.bytes_down();
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the download to be under way", || async {
        seen(
            proxy.bytes_down() > before + (256 << 10),
            proxy.bytes_down(),
        )
    })
    .await;
    proxy.abandon();
    proxy.throttle(0);
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    assert!(
        agent.process().has_said("its session is over", 0),
        "{}",
        agent.process().log()
    );
}

async fn a_download_over_a_dead_link_is_tried_again(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let _agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let bundle = operator.push(&noisy("app", "1.0", 8, "true").await).await;
    proxy.cut_after(4 << 20);
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the download to be cut", || async {
        seen(proxy.is_cut(), proxy.bytes_down())
    })
    .await;
    // From now on connections are accepted and stay silent, so the agent sees a timeout and no
    // reset.
    proxy.heal();
    proxy.stall();
    operator.offline("edge-1").await;
    let target = operator.target(&id).await;
    assert!(
        !matches!(target.state(), AttemptState::Failed),
        "{target:?}"
    );
    proxy.cut();
    proxy.heal();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
}

async fn a_bundle_missing_from_the_store_fails_the_download(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    fs::remove_file(server.blob(&bundle.digest)).unwrap();
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    failed_with(&target, FailureReason::Download);
    assert!(!target.message.is_empty());
    assert!(agent.releases("app").is_empty());
}

async fn a_bundle_damaged_in_the_store_is_noticed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let bundle = operator.push(&noisy("app", "1.0", 1, "true").await).await;
    let blob = server.blob(&bundle.digest);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&blob, bytes).unwrap();
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    failed_with(&target, FailureReason::DigestMismatch);
    assert!(agent.releases("app").is_empty());
    assert!(agent.leftovers().is_empty(), "{:?}", agent.leftovers());
}

async fn a_report_that_cannot_be_delivered_is_kept_and_applied_once(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let (go, witness) = (
        server.scratch().join("go"),
        server.scratch().join("witness"),
    );
    let script = format!(
        "echo started > {0}.started; until [ -e {0} ]; do sleep 0.05; done; echo ran >> {1}",
        go.display(),
        witness.display()
    );
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let started = go.with_extension("started");
    wait_for("the script to run", || async {
        seen(started.exists(), operator.targets(&id).await)
    })
    .await;
    proxy.cut();
    operator.offline("edge-1").await;
    fs::write(&go, "").unwrap();
    wait_for("the release to be current while nobody listens", || async {
        seen(agent.current("app").is_some(), agent.releases("app"))
    })
    .await;
    assert!(!matches!(
        operator.target(&id).await.state(),
        AttemptState::Succeeded
    ));
    proxy.heal();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let target = operator.target(&id).await;
    assert_eq!((target.attempt, target.late_outcome), (1, false));
    assert_eq!(fs::read_to_string(&witness).unwrap(), "ran\n");
}

async fn a_report_survives_a_killed_server_and_a_restarted_agent(database: Database) {
    let mut server = TestServer::start(database).await;
    let proxy = Proxy::to(server.port()).await;
    let mut agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let (go, witness) = (
        server.scratch().join("go"),
        server.scratch().join("witness"),
    );
    let script = format!(
        "echo started > {0}.started; until [ -e {0} ]; do sleep 0.05; done; echo ran >> {1}",
        go.display(),
        witness.display()
    );
    let operator = server.operator();
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let started = go.with_extension("started");
    wait_for("the script to run", || async {
        seen(started.exists(), operator.targets(&id).await)
    })
    .await;
    proxy.cut();
    server.kill();
    fs::write(&go, "").unwrap();
    wait_for("the script to have ended", || async {
        seen(
            agent.process().log().contains("finished state="),
            agent.process().tail(),
        )
    })
    .await;
    agent.stop();
    server.start_again().await;
    proxy.heal();
    agent.start_again();
    let operator = server.operator();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.attempt, 1);
    assert!(
        matches!(target.state(), AttemptState::Succeeded),
        "{target:?}"
    );
    assert_eq!(fs::read_to_string(&witness).unwrap(), "ran\n");
}
