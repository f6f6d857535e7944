//! Devices whose state folder is full, read-only or failing: shown with the fault, without
//! commands, and back after the repair.

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Ctl, Database, Operator, Proxy, RawIdentity, TestServer, agent,
    both_databases,
    disk_image::{DiskImage, TinyDisk},
    process::Process,
    wait::seen,
    wait_for,
};
use kernex_proto::v1::{
    Accepted, AttemptState, DeploymentResult, DeviceStatus, DiskFault, FailureReason, Ready,
    Report, WatchEventsRequest, device_session_request::Message as Up,
    device_session_response::Message as Down, report::Event,
};
use tonic::Code;

/// Waits until a device is shown as online with this fault.
async fn shows(operator: &Operator, name: &str, fault: DiskFault) {
    operator
        .device_where(name, "to be online with its disk's fault", |device| {
            device.status() == DeviceStatus::Online && device.disk_fault() == fault
        })
        .await;
}

/// Kinds of the first events about devices' disks, until this many are there.
async fn told(operator: &Operator, many: usize) -> Vec<String> {
    let oldest = WatchEventsRequest {
        after: 0,
        ..Default::default()
    };
    let watch = operator.events().watch_events(oldest).await.unwrap();
    let mut watch = watch.into_inner();
    let mut kinds = Vec::new();
    while kinds.len() < many {
        let limit = std::time::Duration::from_secs(60);
        let next = tokio::time::timeout(limit, watch.message()).await;
        let message = next.unwrap_or_else(|_| panic!("only {kinds:?}"));
        let message = message.unwrap().expect("it goes on");
        if let Some(event) = message.event
            && event.kind.starts_with("device.disk")
        {
            kinds.push(event.kind);
        }
    }
    kinds
}

both_databases![
    a_device_that_cannot_write_is_shown_and_gets_no_commands_until_it_can,
    an_unconfirmed_session_may_send_only_heartbeats,
    a_session_with_a_disk_fault_ends_like_any_other,
    an_agent_without_a_network_keeps_trying_to_enrol,
];

async fn a_device_that_cannot_write_is_shown_and_gets_no_commands_until_it_can(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let mut sick = server.raw_device("sick").await;
    let mut well = server.raw_device("well").await;
    sick.connect(&server).await.heartbeat(1).await;
    let mut ailing = sick.connect_ailing(&server, DiskFault::NoSpace).await;
    let mut healthy = well.connect(&server).await;
    shows(&operator, "sick", DiskFault::NoSpace).await;
    let listed = ctl.json(&["device", "list", "-l", "kernex.io/name=sick"]);
    assert_eq!(
        (&listed[0]["status"], &listed[0]["disk_fault"]),
        (&"online".into(), &"no_space".into())
    );
    assert!(
        ctl.ok(&["device", "list"])
            .contains("online, state_dir: no space")
    );
    assert!(
        ctl.ok(&["device", "get", "sick"])
            .contains("state_dir: no space")
    );

    let app = operator.push_script("app", "1.0", "true").await;
    let plan = ctl.run(&["deploy", "--plan", "app:1.0", "--device", "sick"]);
    assert_eq!(plan.code, Some(3), "{}", plan.stderr);
    assert!(
        plan.stdout.contains("state_dir: no space"),
        "{}",
        plan.stdout
    );
    let id = operator.deploy(&app, &["sick", "well"]).await;
    // The healthy device has its command. The sick one would have it by now, too.
    healthy.deploy_command().await;
    for seq in 2..5 {
        ailing.heartbeat_with(seq, DiskFault::NoSpace).await;
    }
    let states = operator.targets(&id).await;
    let state = states
        .iter()
        .find(|target| target.device_name == "sick")
        .unwrap()
        .state();
    assert_eq!(state, AttemptState::Pending, "{states:?}");
    drop(ailing);

    // An epoch that was never confirmed proves nothing. The same journal is back with the epoch
    // before.
    let mut back = sick.connect(&server).await;
    back.deploy_command().await;
    back.heartbeat(1).await;
    let device = operator
        .device_where("sick", "to be well again", |device| {
            device.disk_fault() == DiskFault::Unspecified
        })
        .await;
    assert_eq!(device.status(), DeviceStatus::Online, "it is no copy");
    assert_eq!(
        told(&operator, 2).await,
        ["device.disk_fault", "device.disk_recovered"]
    );
}

async fn an_unconfirmed_session_may_send_only_heartbeats(database: Database) {
    let server = TestServer::start(database).await;
    let device = server.raw_device("edge-1").await;
    let accepted = Report {
        attempt: None,
        seq: 1,
        event: Some(Event::Accepted(Accepted {})),
        ..Report::default()
    };
    for message in [Up::Report(accepted), Up::Ready(Ready { epoch: 1 })] {
        let mut ailing = device.connect_ailing(&server, DiskFault::IoError).await;
        ailing.heartbeat_with(2, DiskFault::IoError).await;
        ailing.send(message).await;
        assert_eq!(ailing.end().await, Code::InvalidArgument);
    }
    // A session without a fault has to be confirmed.
    let silent = silent(&server, &device).await;
    assert_eq!(silent, Code::InvalidArgument);
}

async fn a_session_with_a_disk_fault_ends_like_any_other(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut older = device.connect_ailing(&server, DiskFault::ReadOnly).await;
    let mut newer = device.connect_ailing(&server, DiskFault::ReadOnly).await;
    assert_eq!(older.end().await, Code::Aborted, "a newer one took over");
    shows(&operator, "edge-1", DiskFault::ReadOnly).await;
    let mut whole = device.connect(&server).await;
    assert_eq!(newer.end().await, Code::Aborted);
    whole.heartbeat(1).await;
    let mut last = device.connect_ailing(&server, DiskFault::IoError).await;
    assert!(
        Ctl::on(&server)
            .run(&["device", "delete", "edge-1", "--yes"])
            .code
            == Some(0)
    );
    assert_eq!(last.end().await, Code::Unauthenticated);
}

async fn an_agent_without_a_network_keeps_trying_to_enrol(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    proxy.cut();
    let token = operator.enrollment_token(&[]).await;
    let state = server.scratch().join("late");
    agent::place_key(&state, server.new_key());
    let mut command = agent::bare_command("run");
    command
        .args([
            "--server",
            &proxy.url(),
            "--token",
            &token,
            "--name",
            "late",
        ])
        .arg("--state-dir")
        .arg(&state)
        .env("KERNEX_AGENT_MAX_RECONNECT_SECONDS", "1");
    let process = Process::spawn("late", command, &server.scratch().join("late.log"));
    wait_for("it to have tried more than once", || async {
        let tries = process.log().matches("cannot enrol; trying again").count();
        seen(tries > 2, process.log())
    })
    .await;
    proxy.heal();
    wait_for("it to have enrolled", || async {
        operator
            .try_device("late")
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    operator.online("late").await;
}

/// The end of a session that sends neither Ready nor a heartbeat.
async fn silent(server: &TestServer, device: &RawIdentity) -> Code {
    let opening = kernex_integration_tests::raw_agent::Opening::new(server).await;
    let opening = opening.unwrap();
    let hello = opening.hello(device);
    let mut session = opening.say(hello).await.unwrap();
    let beat = kernex_proto::v1::Heartbeat {
        seq: 1,
        vital_signs: Some(Default::default()),
        ..Default::default()
    };
    session.send(Up::Heartbeat(beat)).await;
    loop {
        match session.next().await {
            Ok(Some(Down::HeartbeatAck(_))) => panic!("it was taken"),
            Ok(_) => {}
            Err(status) => return status.code(),
        }
    }
}

const NO_DISKS: &str = "the disk can be made";

/// A server that asks for heartbeats often, and an agent whose state folder is on this disk.
async fn with_state(
    state: std::path::PathBuf,
) -> (TestServer, kernex_integration_tests::TestAgent) {
    use kernex_integration_tests::ServerOptions;
    let often = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "500ms");
    let server = TestServer::start_with(Database::Sqlite, often).await;
    let options = AgentOptions::named("edge-1").state(state);
    let agent = server.agent_with(options).await;
    (server, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
)]
async fn a_full_disk_ends_a_deploy_by_name_and_is_seen_until_there_is_room_again() {
    let disk = TinyDisk::new(12 << 10).expect(NO_DISKS);
    let (server, mut agent) = with_state(disk.path().join("state")).await;
    let operator = server.operator();
    let app = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&app, &["edge-1"]).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let next = operator.push_script("app", "2.0", "true").await;
    let script = BundleBuilder::script(
        "filler",
        "1.0",
        &format!(
            "head -c 64M /dev/zero > {}; exit 1",
            disk.path().join("filler").display()
        ),
    );
    let filler = operator.push(&script.gzip().await).await;
    let target = operator.deploy_and_finish(&filler, "edge-1").await;
    assert_eq!(
        target.state(),
        AttemptState::Failed,
        "it is said although nothing is free: {target:?}"
    );
    shows(&operator, "edge-1", DiskFault::NoSpace).await;
    // It stays so over a restart.
    agent.stop();
    operator.offline("edge-1").await;
    agent.start_again();
    shows(&operator, "edge-1", DiskFault::NoSpace).await;
    let id = operator.deploy(&next, &["edge-1"]).await;
    assert_eq!(operator.target(&id).await.state(), AttemptState::Pending);
    std::fs::remove_file(disk.path().join("filler")).expect("it is there");
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    shows(&operator, "edge-1", DiskFault::Unspecified).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
)]
async fn a_full_disk_refuses_a_bundle_by_name_while_a_session_goes_on() {
    let disk = TinyDisk::new(12 << 10).expect(NO_DISKS);
    let (server, agent) = with_state(disk.path().join("state")).await;
    let operator = server.operator();
    // Room for the journal, and for no release.
    disk.fill(1 << 20).expect("it can be filled");
    let app = operator.push_script("app", "1.0", "true").await;
    let target = operator.deploy_and_finish(&app, "edge-1").await;
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, FailureReason::DiskFull),
        "{target:?}"
    );
    assert_eq!(
        operator.device("edge-1").await.disk_fault(),
        DiskFault::Unspecified
    );
    assert!(agent.releases("app").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
)]
async fn an_agent_on_a_read_only_disk_says_so_and_goes_on_once_it_can_write() {
    let disk = TinyDisk::new(12 << 10).expect(NO_DISKS);
    let (server, mut agent) = with_state(disk.path().join("state")).await;
    let operator = server.operator();
    for kill in [false, true] {
        if kill {
            agent.kill();
        } else {
            agent.stop();
        }
        operator.offline("edge-1").await;
        disk.set_read_only(true).expect("nobody writes");
        agent.start_again();
        shows(&operator, "edge-1", DiskFault::ReadOnly).await;
        let version = format!("1.{}", u8::from(kill));
        let app = operator.push_script("app", &version, "true").await;
        let id = operator.deploy(&app, &["edge-1"]).await;
        assert_eq!(operator.target(&id).await.state(), AttemptState::Pending);
        disk.set_read_only(false).expect("it can be written again");
        assert_eq!(
            operator.finished(&id).await.result(),
            DeploymentResult::Succeeded
        );
        shows(&operator, "edge-1", DiskFault::Unspecified).await;
    }
    assert!(!agent.has_ended(), "it waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
)]
async fn an_agent_whose_disk_fails_stays_online_and_recovers_after_the_repair() {
    let disk = DiskImage::new(64).expect(NO_DISKS);
    let (server, mut agent) = with_state(disk.path().join("state")).await;
    let operator = server.operator();
    let app = operator.push_script("app", "1.0", "true").await;
    let done = operator.deploy(&app, &["edge-1"]).await;
    assert_eq!(
        operator.finished(&done).await.result(),
        DeploymentResult::Succeeded
    );
    disk.cut_power().expect("it can be shut down");
    let next = operator.push_script("app", "2.0", "true").await;
    let id = operator.deploy(&next, &["edge-1"]).await;
    shows(&operator, "edge-1", DiskFault::IoError).await;
    assert!(!agent.has_ended(), "it stays");
    let target = operator.target(&id).await;
    let is_over = matches!(
        target.state(),
        AttemptState::Failed | AttemptState::Succeeded
    );
    assert!(!is_over, "{target:?}");
    disk.restore_power().expect("it can be mounted again");
    if agent.has_ended() {
        // The agent had a file open on the disk, and the repair killed it.
        agent.start_again();
    }
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let device = operator.online("edge-1").await;
    assert_eq!(device.disk_fault(), DiskFault::Unspecified);
}
