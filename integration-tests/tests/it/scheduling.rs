//! Scheduling: starts, windows, spreads and deadlines.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan as _, tz::TimeZone};
use kernex_integration_tests::{Ctl, Database, ServerOptions, TestServer, both_databases};
use kernex_proto::v1::{AttemptState, DeploymentResult};
use tokio::task::JoinSet;

fn now() -> Timestamp {
    Timestamp::now()
}

/// A window of an hour that opens in so many minutes.
fn window(minutes: i64) -> String {
    let clock = |at: Timestamp| {
        at.to_zoned_datetime(TimeZone::UTC)
            .strftime("%H:%M")
            .to_string()
    };
    let opens = now() + minutes.minutes();
    format!("daily {}-{} UTC", clock(opens), clock(opens + 60.minutes()))
}

both_databases![
    a_window_holds_a_connected_device_back_and_another_lets_it_begin,
    a_deployment_begins_at_its_start,
    each_device_of_a_spread_is_shown_with_its_moment,
    each_device_of_a_spread_begins_at_its_moment_and_not_before,
    a_deadline_stops_running_targets,
    invalid_schedules_are_refused_with_the_field,
];

async fn a_window_holds_a_connected_device_back_and_another_lets_it_begin(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _agent = server.agent("edge-1").await;
    operator.push_script("app", "1.0", "true").await;
    operator.push_script("db", "1.0", "true").await;
    let closed = window(120);
    let held = ctl.deploy(&["app:1.0", "--device", "edge-1", "--window", &closed]);
    let id = held["id"].as_str().unwrap();
    assert_eq!(held["schedule"]["windows"][0], closed.as_str(), "{held}");
    assert!(held["opens_at"].is_string(), "{held}");
    let open = ctl.deploy(&[
        "db:1.0",
        "--device",
        "edge-1",
        "--window",
        &closed,
        "--window",
        &window(-30),
    ]);
    assert!(open["opens_at"].is_null(), "{open}");
    let done = operator.finished(open["id"].as_str().unwrap()).await;
    assert_eq!(done.result(), DeploymentResult::Succeeded);
    assert_eq!(
        operator.target(id).await.state(),
        AttemptState::Pending,
        "the device was told nothing about it"
    );
    let shown = ctl.ok(&["deployment", "get", id]);
    assert!(
        shown.contains(&closed) && shown.contains("Opens"),
        "{shown}"
    );
    let plan = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "--window", &closed, "--plan",
    ]);
    assert!(
        plan.code == Some(0) && plan.stderr.contains("Nothing would begin before"),
        "{}",
        plan.stderr
    );
    let _ = ctl.ok(&["deployment", "cancel", id, "--yes"]);
    assert_eq!(
        operator.finished(id).await.result(),
        DeploymentResult::Cancelled
    );
}

async fn a_deployment_begins_at_its_start(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _agent = server.agent("edge-1").await;
    operator.push_script("app", "1.0", "true").await;
    let far = (now() + 60.minutes()).to_string();
    let waiting = ctl.deploy(&["app:1.0", "--device", "edge-1", "--at", &far]);
    assert_eq!(
        (&waiting["state"], &waiting["counts"]["held"]),
        (&"scheduled".into(), &1.into()),
        "{waiting}"
    );
    // A newer order of the same bundle name takes its place.
    let start = now() + 6.seconds();
    let scheduled = ctl.deploy(&["app:1.0", "--device", "edge-1", "--at", &start.to_string()]);
    let given_way = operator.finished(waiting["id"].as_str().unwrap()).await;
    assert_eq!(given_way.counts.unwrap().superseded, 1);
    let id = scheduled["id"].as_str().unwrap();
    let done = operator.finished(id).await;
    assert_eq!(done.result(), DeploymentResult::Succeeded);
    let finished = done.finished_at.unwrap();
    assert!(
        finished.seconds >= start.as_second(),
        "{finished:?} is before {start}"
    );
}

async fn each_device_of_a_spread_is_shown_with_its_moment(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let names = ["edge-1", "edge-2", "edge-3"];
    for name in names {
        server.raw_device(name).await;
    }
    operator.push_script("app", "1.0", "true").await;
    let before = now();
    let spread = ctl.deploy(&["app:1.0", "--to", "*", "--spread", "12h"]);
    let after = now();
    let id = spread["id"].as_str().unwrap();
    let shown = ctl.json(&["deployment", "get", id]);
    let moments: Vec<Timestamp> = shown["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| {
            target["opens_at"]
                .as_str()
                .unwrap_or_else(|| panic!("{target}"))
                .parse()
                .unwrap()
        })
        .collect();
    assert!(
        moments
            .iter()
            .all(|at| (before..=after + 12.hours()).contains(at)),
        "{moments:?}"
    );
    assert!(
        moments[0] != moments[1] && moments[1] != moments[2],
        "{moments:?}"
    );
    let again = ctl.json(&["deployment", "get", id]);
    assert_eq!(shown["targets"], again["targets"], "the same each time");
    let table = ctl.ok(&["deployment", "get", id]);
    assert!(table.contains("begins in "), "{table}");

    // With a start the spread is counted from there. A deployment without a delay shows no moment.
    let start = (now() + 20.hours()).to_string();
    let later = ctl.deploy(&["app:1.0", "--to", "*", "--spread", "1h", "--at", &start]);
    let later = ctl.json(&["deployment", "get", later["id"].as_str().unwrap()]);
    for target in later["targets"].as_array().unwrap() {
        let at: Timestamp = target["opens_at"]
            .as_str()
            .unwrap_or_else(|| panic!("{target}"))
            .parse()
            .unwrap();
        assert!(
            at >= start.parse().unwrap() && at <= now() + 21.hours(),
            "{target}"
        );
    }
    let plain = ctl.deploy(&["app:1.0", "--to", "*"]);
    let plain = ctl.json(&["deployment", "get", plain["id"].as_str().unwrap()]);
    assert!(plain["targets"][0]["opens_at"].is_null(), "{plain}");
}

async fn each_device_of_a_spread_begins_at_its_moment_and_not_before(database: Database) {
    // A server that only looks at all devices every 5 s would be late by 2.5 s on average. The
    // median is not moved when a busy machine is late now and then.
    const DEVICES: usize = 12;
    const LATE: SignedDuration = SignedDuration::from_secs(1);
    // These sessions only listen and send no heartbeat.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let mut sessions = BTreeMap::new();
    for number in 0..DEVICES {
        let name = format!("edge-{number}");
        let session = server.raw_device(&name).await.connect(&server).await;
        sessions.insert(name, session);
    }
    operator.push_script("app", "1.0", "true").await;
    let spread = ctl.deploy(&["app:1.0", "--to", "*", "--spread", "12s"]);
    let shown = ctl.json(&["deployment", "get", spread["id"].as_str().unwrap()]);
    let mut told = JoinSet::new();
    for target in shown["targets"].as_array().unwrap() {
        // A moment that has passed is not shown.
        let at: Option<Timestamp> = target["opens_at"].as_str().map(|at| at.parse().unwrap());
        let mut session = sessions
            .remove(target["device_name"].as_str().unwrap())
            .unwrap();
        told.spawn(async move {
            session.deploy_command().await;
            (at, now())
        });
    }
    let mut delays = Vec::new();
    while let Some(told) = told.join_next().await {
        let (Some(opens), begun) = told.unwrap() else {
            continue;
        };
        assert!(begun >= opens, "begun at {begun}, {opens} was its moment");
        delays.push(begun.duration_since(opens));
    }
    delays.sort();
    assert!(
        delays.len() > DEVICES / 2,
        "most moments were to come: {delays:?}"
    );
    assert!(
        delays[delays.len() / 2] < LATE,
        "after their moments: {delays:?}"
    );
}

async fn a_deadline_stops_running_targets(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let agent = server.agent("edge-1").await;
    operator
        .push_script(
            "app",
            "1.0",
            "echo $$ > \"$KERNEX_STATE_DIR/pid\"; sleep 3600",
        )
        .await;
    let running = ctl.deploy(&["app:1.0", "--device", "edge-1", "--deadline", "8s"]);
    let id = running["id"].as_str().unwrap();
    let done = operator.finished(id).await;
    assert_eq!(done.result(), DeploymentResult::Failed);
    assert_eq!(operator.target(id).await.state(), AttemptState::Expired);
    // The device may go on with something else: its script was killed, and it said so.
    let next = operator.push_script("app", "2.0", "true").await;
    assert_eq!(
        operator.deploy_and_finish(&next, "edge-1").await.state(),
        AttemptState::Succeeded
    );
    drop(agent);
}

async fn invalid_schedules_are_refused_with_the_field(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _device = server.raw_device("edge-1").await;
    operator.push_script("app", "1.0", "true").await;
    for (flags, said) in [
        (
            &["--window", "Feb 30 02:00-04:00 UTC"][..],
            "\n    Feb 30 02:00-04:00 UTC\n        ^\n",
        ),
        (
            &["--window", "Mon-Fri 02:00-04:00 Europe/Atlantis"],
            "no time zone",
        ),
        (&["--window", "daily 02:00-02:00 UTC"], "never opens"),
        (
            &["--window", "2020-02-03 02:00-04:00 UTC"],
            "never opens any more",
        ),
        (
            &["--window", &window(120), "--deadline", "1h"],
            "no window opens before it",
        ),
        (
            &["--window", &window(120), "--delivery-timeout", "1h"],
            "delivery timeout",
        ),
        (&["--deadline", "2020-02-03T00:00:00Z"], "passed already"),
        (&["--spread", "2d"], "at most a day"),
        (&["--at", "tomorrow"], "nor a time"),
        (&["--at", "2020-01-01T00:00:00Z"], "has passed already"),
        (&["--approve"], "begins at once"),
        (&["--soak", "1m"], "begins at once"),
        (&["--success", "95%"], "begins at once"),
        (&["--at", "2027-02-03 04:05"], "names no time zone"),
        (&["--dynamic"], "--to"),
    ] {
        for plan in [&[][..], &["--plan"]] {
            let words = [&["deploy", "app:1.0", "--device", "edge-1"], flags, plan].concat();
            let refused = ctl.run(&words);
            assert_eq!(refused.code, Some(2), "{words:?}: {}", refused.stderr);
            assert!(
                refused.stderr.contains(said),
                "{words:?}: {}",
                refused.stderr
            );
        }
    }
    assert_eq!(
        ctl.json(&["deployment", "list"]).as_array().map(Vec::len),
        Some(0)
    );
    let nobody = ctl.run(&["deploy", "app:1.0", "--to", "site=nowhere"]);
    assert_eq!(
        nobody.code,
        Some(5),
        "an empty match is an error: {}",
        nobody.stderr
    );
}
