//! Heartbeats: what a device says about itself, and whether it is online.

use kernex_integration_tests::{Database, TestServer, both_databases, wait::seen, wait_for};
use kernex_proto::v1::{
    Heartbeat, ListDeviceMetricsRequest, VitalSigns, device_session_request as up,
};

both_databases![
    a_heartbeat_updates_last_seen_and_the_vital_signs,
    a_real_agent_reports_its_inventory_and_vital_signs,
    a_device_is_online_while_its_agent_runs,
];

async fn a_heartbeat_updates_last_seen_and_the_vital_signs(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    assert!(
        operator.device("edge-1").await.last_seen.is_none(),
        "never seen yet"
    );
    let session = device.connect(&server).await;
    let first = operator
        .online("edge-1")
        .await
        .last_seen
        .expect("it was seen");
    let vital_signs = VitalSigns {
        cpu_percent: 12.5,
        memory_used_mb: 300,
        memory_total_mb: 1000,
        disk_free_bytes: 5 << 30,
        disk_total_bytes: 9 << 30,
        uptime_seconds: 77,
    };
    session
        .send(up::Message::Heartbeat(Heartbeat {
            seq: 1,
            vital_signs: Some(vital_signs),
            ..Default::default()
        }))
        .await;
    let device = operator
        .device_where("edge-1", "to show its vital signs", |device| {
            device.vital_signs.is_some()
        })
        .await;
    assert_eq!(device.vital_signs, Some(vital_signs));
    let last = device.last_seen.expect("it was seen");
    assert!((last.seconds, last.nanos) > (first.seconds, first.nanos));

    let samples = wait_for("a sample of the history", || async {
        let request = ListDeviceMetricsRequest {
            device: "edge-1".into(),
            ..Default::default()
        };
        let answer = operator
            .devices()
            .list_device_metrics(request)
            .await
            .unwrap();
        let samples = answer.into_inner().samples;
        seen(!samples.is_empty(), samples)
    })
    .await;
    assert_eq!(samples[0].vital_signs, Some(vital_signs));
}

async fn a_real_agent_reports_its_inventory_and_vital_signs(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let device = operator
        .device_where("edge-1", "to show its vital signs", |device| {
            device.vital_signs.is_some()
        })
        .await;
    let signs = device.vital_signs.unwrap();
    assert!((0.0..=100.0).contains(&signs.cpu_percent), "{signs:?}");
    assert!(
        signs.memory_used_mb > 0 && signs.memory_used_mb < signs.memory_total_mb,
        "{signs:?}"
    );
    assert!(signs.disk_total_bytes > 0 && signs.disk_free_bytes <= signs.disk_total_bytes);
    assert!(signs.uptime_seconds > 0);
    let inventory = device.inventory.expect("it said what it is");
    assert_eq!(
        (inventory.os.as_str(), inventory.arch.as_str()),
        ("linux", std::env::consts::ARCH)
    );
    assert!(!device.agent_version.is_empty());
}

async fn a_device_is_online_while_its_agent_runs(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let first = operator.device("edge-1").await.epoch;
    agent.stop();
    operator.offline("edge-1").await;
    agent.start_again();
    assert!(
        operator.online("edge-1").await.epoch > first,
        "sessions are numbered"
    );
    agent.kill();
    operator.offline("edge-1").await;
}
