//! Commands that deploy nothing: plans and configurations.

use kernex_proto::v1::{
    self, FailureReason, command::Action, device_session_request::Message,
    device_session_response as down,
};
use serde_json::{Value, json};

use crate::{bench::Bench, fake_server::Session, session::attempt};

async fn ask(session: &Session, action: Action) {
    let command = v1::Command {
        epoch: session.epoch,
        action: Some(action),
        ..v1::Command::default()
    };
    session.send(Some(down::Message::Command(command))).await;
}

async fn configured(session: &mut Session) -> v1::Configured {
    loop {
        if let Message::Configured(answer) = session.next().await.expect("a session") {
            return answer;
        }
    }
}

async fn planned(session: &mut Session, digest: &str, manifest: &Value) -> v1::Planned {
    let plan = v1::Plan {
        deploy: Some(v1::Deploy {
            name: "app".into(),
            digest: digest.to_owned(),
            size_bytes: 1000,
            ..v1::Deploy::default()
        }),
        plan_id: "plan-1".into(),
        manifest_json: manifest.to_string(),
        unpacked_bytes: 5000,
        entries: 1,
    };
    ask(session, Action::Plan(plan)).await;
    loop {
        if let Message::Planned(answer) = session.next().await.expect("a session") {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_plan_is_answered_live_and_nothing_moves() {
    let (bench, mut session) = Bench::connected().await;
    let fine = json!({"version": "1"});
    let wanted = kernex_proto::ids::Digest::of(b"other").to_string();
    let answer = planned(&mut session, &wanted, &fine).await;
    assert_eq!(answer.plan_id, "plan-1");
    assert_eq!((answer.obstacles.len(), answer.attempts_ahead), (0, 0));
    assert!(answer.disk_free_bytes > 0 && answer.device_time.is_some());
    assert!(
        bench.list("bundles").is_empty(),
        "planning leaves nothing behind"
    );

    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": "true"}}));
    session.deployed(&bundle).await;
    let answer = planned(&mut session, &bundle.digest.to_string(), &fine).await;
    assert!(answer.already_active);

    let slow = bench.serve(&json!({"version": "2", "deploy": {"script": "sleep 1000"}}));
    let id = attempt();
    session.deploy(&id, &slow).await;
    session.step(v1::Step::Script).await;
    let alien = json!({"version": "1", "requires": {"os": "plan9", "disk_bytes": 1_u64 << 60}});
    let answer = planned(&mut session, &wanted, &alien).await;
    let reasons: Vec<_> = answer.obstacles.iter().map(v1::Obstacle::reason).collect();
    assert_eq!(
        reasons,
        [FailureReason::Requirements, FailureReason::DiskFull]
    );
    assert_eq!(answer.attempts_ahead, 1);
    session.stop(&id).await;
    session.outcome().await;
}

#[tokio::test]
async fn a_configuration_applies_at_once_and_after_a_restart() {
    let (mut bench, mut session) = Bench::connected().await;
    let configure = v1::Configure {
        revision: 4,
        values: [("SITE".to_owned(), "berlin".to_owned())].into(),
        settings: Some(v1::AgentSettings {
            heartbeat_interval_ms: Some(100),
            max_script_seconds: Some(1),
            log: Some("warn".into()),
            ..v1::AgentSettings::default()
        }),
    };
    ask(&session, Action::Configure(configure)).await;
    let answer = configured(&mut session).await;
    assert_eq!((answer.revision, answer.active_revision), (4, 4));
    assert!(answer.applied, "{answer:?}");
    assert_eq!(answer.heartbeat_interval_ms, 100);

    // What is wrong is refused with its reason and changes nothing.
    let nonsense = v1::Configure {
        revision: 5,
        settings: Some(v1::AgentSettings {
            keep_releases: Some(0),
            ..v1::AgentSettings::default()
        }),
        ..v1::Configure::default()
    };
    ask(&session, Action::Configure(nonsense)).await;
    let answer = configured(&mut session).await;
    assert!(!answer.applied);
    assert_eq!((answer.revision, answer.active_revision), (5, 4));
    assert!(answer.refusal.contains("keep_releases"), "{answer:?}");

    bench.crash().await;
    let mut session = bench.start().await;
    let script = "echo $KERNEX_CONFIG_SITE; sleep 1000";
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": script}}));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(
        outcome.reason(),
        FailureReason::ScriptTimeout,
        "{outcome:?}"
    );
    assert!(outcome.message.contains("its limit of 1 s"), "{outcome:?}");
    assert_eq!(outcome.output_tail, "berlin\n");
}
