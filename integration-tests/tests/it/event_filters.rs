//! Watches of some events only: by kind, device, deployment and moment.

use kernex_integration_tests::{
    Ctl, Database, TestServer, both_databases, operator::Operator, wait::next_message,
};
use kernex_proto::v1::{Event, WatchEventsRequest};
use tonic::Code;

both_databases![
    a_watch_gets_the_events_of_some_devices_and_deployments_alone,
    a_watch_may_begin_at_a_moment,
    kernexctl_watches_the_events_that_were_asked_for,
];

/// The cursor of the newest event.
async fn newest(operator: &Operator) -> u64 {
    let request = WatchEventsRequest {
        from_now: true,
        ..Default::default()
    };
    let watch = operator.events().watch_events(request).await;
    let first = next_message(&mut watch.expect("a watch").into_inner()).await;
    first.expect("no error").expect("a message").cursor
}

/// What a watch gets of all that has happened so far.
async fn seen(operator: &Operator, request: WatchEventsRequest) -> Vec<Event> {
    let newest = newest(operator).await;
    let watch = operator.events().watch_events(request).await;
    let mut watch = watch.expect("a watch").into_inner();
    let mut seen = Vec::new();
    loop {
        let message = next_message(&mut watch).await.expect("no error");
        let message = message.expect("it goes on");
        seen.extend(message.event);
        if message.cursor >= newest {
            return seen;
        }
    }
}

async fn a_watch_gets_the_events_of_some_devices_and_deployments_alone(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    let bundle = operator.push_script("app", "1.0", "true").await;
    let first = operator.deploy(&bundle, &["edge-1", "edge-2"]).await;
    operator.finished(&first).await;
    let second = operator.deploy(&bundle, &["edge-1"]).await;
    operator.finished(&second).await;
    let id = operator.device("edge-1").await.id;

    let of_device = |devices: &[&str]| WatchEventsRequest {
        devices: devices.iter().map(|&device| device.to_owned()).collect(),
        ..Default::default()
    };
    let by_name = seen(&operator, of_device(&["edge-1"])).await;
    assert!(by_name.iter().all(|event| event.device_id == id));
    let kinds: Vec<&str> = by_name.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"device.enrolled") && kinds.contains(&"attempt.succeeded"));
    assert_eq!(by_name, seen(&operator, of_device(&[&id])).await);
    let both = seen(&operator, of_device(&["edge-1", "edge-2"])).await;
    assert!(both.len() > by_name.len() && both.iter().all(|event| !event.device_id.is_empty()));

    let of_second = WatchEventsRequest {
        deployment_ids: vec![second.clone()],
        ..Default::default()
    };
    let events = seen(&operator, of_second.clone()).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds.first(), Some(&"deployment.created"));
    assert_eq!(kinds.last(), Some(&"deployment.finished"));
    assert!(events.iter().all(|event| event.deployment_id == second));
    let narrow = WatchEventsRequest {
        devices: vec!["edge-1".into()],
        kinds: vec!["attempt.succeeded".into()],
        ..of_second.clone()
    };
    assert_eq!(seen(&operator, narrow).await.len(), 1);
    let of_another = WatchEventsRequest {
        devices: vec!["edge-2".into()],
        ..of_second
    };
    assert_eq!(seen(&operator, of_another).await, []);

    let unknown = of_device(&["edge-9"]);
    let refused = operator.events().watch_events(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let malformed = WatchEventsRequest {
        deployment_ids: vec!["nightly".into()],
        ..Default::default()
    };
    let refused = operator.events().watch_events(malformed).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn a_watch_may_begin_at_a_moment(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    for name in ["edge-1", "edge-2", "edge-3"] {
        server.raw_device(name).await;
    }
    let enrolled = WatchEventsRequest {
        kinds: vec!["device.enrolled".into()],
        ..Default::default()
    };
    let all = seen(&operator, enrolled.clone()).await;
    assert_eq!(all.len(), 3);
    let since = |at| WatchEventsRequest {
        since: at,
        ..enrolled.clone()
    };
    assert_eq!(seen(&operator, since(all[1].at)).await, all[1..]);
    let long_ago = Some(prost_types::Timestamp::default());
    assert_eq!(seen(&operator, since(long_ago)).await, all);
    let mut later = all[2].at.expect("a time");
    later.seconds += 3600;
    assert_eq!(seen(&operator, since(Some(later))).await, []);
    let twice = WatchEventsRequest {
        after: 1,
        ..since(long_ago)
    };
    let refused = operator.events().watch_events(twice).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn kernexctl_watches_the_events_that_were_asked_for(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let _agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    operator.push_script("app", "1.0", "true").await;
    let deploy = |device: &str, name: &str| {
        ctl.ok(&[
            "deploy", "app:1.0", "--device", device, "--name", name, "-w",
        ])
    };
    let _ = (deploy("edge-1", "one"), deploy("edge-2", "two"));
    let watch = |words: &[&str]| {
        let words = [&["event", "watch", "-o", "jsonl", "--since", "1h"], words].concat();
        ctl.lines(&words)
    };
    // The first line is the first that passes.
    let of_two = watch(&["--device", "edge-2", "--kind", "attempt"]);
    let line = of_two.about("").await;
    assert!(
        line.contains("\"device_name\":\"edge-2\"") && line.contains("\"kind\":\"attempt."),
        "{line}"
    );
    let by_name = watch(&["--deployment", "two"]);
    let line = by_name.about("").await;
    for part in ["deployment.created", "\"deployment_name\":\"two\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = by_name.about("\"kind\":\"attempt.").await;
    assert!(line.contains("edge-2"), "{line}");

    let wrong = ctl.run(&["event", "watch", "--kind", "nope"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    for part in ["`nope`", "    bundle.deleted, uploaded\n", "--kind device"] {
        assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
    }
    assert!(
        wrong.stderr.lines().all(|line| line.len() <= 80),
        "{}",
        wrong.stderr
    );
    let nobody = ctl.run(&["event", "watch", "--device", "edge-9"]);
    assert_eq!(nobody.code, Some(5), "{}", nobody.stderr);
    let both = ctl.run(&["event", "watch", "--since", "1h", "--after", "0"]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}
