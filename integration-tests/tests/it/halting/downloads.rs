//! A halt in the middle of downloads.

use std::{collections::BTreeMap, fs, sync::Arc, time::Instant};

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, Proxy, RawIdentity, ServerOptions, TestServer, both_databases,
    bundle, keys,
    wait::{next_message, seen, wait_for},
};
use kernex_proto::v1::DeploymentResult;
use tokio::{sync::Barrier, task::JoinSet};

use super::{cancelled, halt, stop, until};

both_databases![
    a_halt_aborts_a_download_and_leaves_no_file_of_it,
    two_hundred_downloads_are_halted_together,
];

async fn a_halt_aborts_a_download_and_leaves_no_file_of_it(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let proxy = Proxy::to(server.port()).await;
    let agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    let bundle = operator
        .push(&bundle::noisy("app", "1.0", 32, "true").await)
        .await;
    // The whole download would take a minute.
    proxy.throttle(512 << 10);
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let begun = || {
        let files = fs::read_dir(agent.state.join("tmp"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .map(|file| file.metadata().map_or(0, |meta| meta.len()))
            .collect::<Vec<_>>()
    };
    wait_for("some of the download to be on the disk", || async {
        seen(begun().iter().sum::<u64>() > 1 << 20, begun())
    })
    .await;
    // Half the time of the whole download.
    let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "30s"]);
    assert_eq!(
        (&halted[0]["device_name"], &halted[0]["acknowledged"]),
        (&"edge-1".into(), &true.into()),
        "{halted}"
    );
    assert_eq!(halted[0]["state"], "cancelled", "{halted}");
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    assert!(proxy.bytes_down() < bundle.size_bytes, "it was aborted");
    assert_eq!(begun(), Vec::<u64>::new());
    assert_eq!(
        (agent.current("app"), agent.releases("app")),
        (None, Vec::new())
    );
    assert_eq!(agent.leftovers(), Vec::<std::path::PathBuf>::new());
}

/// No device answers before all of them have been told, so a server that tells them one after the
/// other never gets an answer. How long it takes depends on the machine and is only printed.
async fn two_hundred_downloads_are_halted_together(database: Database) {
    const DEVICES: usize = 200;
    // No heartbeats: opening so many sessions takes longer than a session may usually be silent.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let token = operator
        .enrollment_token_for(kernex_proto::v1::CreateEnrollmentTokenRequest {
            uses: DEVICES as u32,
            ..Default::default()
        })
        .await;
    // Larger than the windows of a connection, so that no download ends before the halt.
    let archive = bundle::noisy("app", "1.0", 8, "true").await;
    let archive = operator.push(&archive).await;
    let mut sessions = Vec::new();
    for (index, key) in keys::derived(DEVICES).into_iter().enumerate() {
        let mut device = RawIdentity::enrol_with(&server, &token, key, &format!("edge-{index:03}"))
            .await
            .unwrap();
        sessions.push(device.connect(&server).await);
    }
    let id = operator
        .deploy_for(kernex_proto::v1::CreateDeploymentRequest {
            bundle: archive.digest.clone(),
            selector: "*".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let (ready, mut downloading) = tokio::sync::mpsc::channel(DEVICES);
    let (mut agents, all_told) = (JoinSet::new(), Arc::new(Barrier::new(DEVICES)));
    for mut session in sessions {
        let (ready, digest) = (ready.clone(), archive.digest.clone());
        let all_told = Arc::clone(&all_told);
        agents.spawn(async move {
            let (command, _) = session.deploy_command().await;
            session.accept(&command, 1).await;
            let mut download = session.begin_download(&digest).await.unwrap();
            assert!(next_message(&mut download).await.unwrap().is_some());
            ready.send(()).await.unwrap();
            stop(&mut session, &command).await;
            all_told.wait().await;
            drop(download);
            session.outcome(&command, 2, cancelled()).await;
        });
    }
    drop(ready);
    for _ in 0..DEVICES {
        downloading.recv().await.expect("each agent downloads");
    }
    let ordered = Instant::now();
    let mut stream = halt(&operator, &id).await.unwrap();
    let mut devices = BTreeMap::new();
    until(&mut stream, &mut devices, 0).await;
    eprintln!(
        "{DEVICES} downloads halted and acknowledged within {} ms",
        ordered.elapsed().as_millis()
    );
    assert_eq!(devices.len(), DEVICES);
    assert!(devices.values().all(|device| device.acknowledged));
    while let Some(agent) = agents.join_next().await {
        agent.unwrap();
    }
    assert_eq!(
        operator.finished(&id).await.counts.unwrap().cancelled,
        DEVICES as u32
    );
}
