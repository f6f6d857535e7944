//! Scheduling: starts, windows, spreads, deadlines, devices that join later and penalised devices.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Ctl, Database, ServerOptions, TestServer, both_databases,
    wait::{seen, wait_for},
};
use kernex_proto::v1::{AttemptState, DeploymentResult, DeploymentState, FailureReason};
use serde_json::Value;
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

fn deployment(ctl: &Ctl<'_>, words: &[&str]) -> Value {
    ctl.json(&[&["deploy"], words].concat())[0].take()
}

both_databases![
    a_window_holds_a_connected_device_back_and_another_lets_it_begin,
    a_deployment_begins_at_its_start,
    each_device_of_a_spread_is_shown_with_its_moment,
    each_device_of_a_spread_begins_at_its_moment_and_not_before,
    a_deadline_stops_running_targets,
    invalid_schedules_are_refused_with_the_field,
    a_dynamic_deployment_reaches_devices_that_enrol_or_are_labelled_later,
    a_device_that_keeps_failing_is_left_out_and_the_others_go_on,
];

async fn a_window_holds_a_connected_device_back_and_another_lets_it_begin(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _agent = server.agent("edge-1").await;
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    operator
        .push(&BundleBuilder::script("db", "1.0", "true").gzip().await)
        .await;
    let closed = window(120);
    let held = deployment(
        &ctl,
        &["app:1.0", "--device", "edge-1", "--window", &closed],
    );
    let id = held["id"].as_str().unwrap();
    assert_eq!(held["schedule"]["windows"][0], closed.as_str(), "{held}");
    assert!(held["schedule"]["opens_at"].is_string(), "{held}");
    let open = deployment(
        &ctl,
        &[
            "db:1.0",
            "--device",
            "edge-1",
            "--window",
            &closed,
            "--window",
            &window(-30),
        ],
    );
    assert!(open["schedule"]["opens_at"].is_null(), "{open}");
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
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let far = (now() + 60.minutes()).to_string();
    let waiting = deployment(&ctl, &["app:1.0", "--device", "edge-1", "--at", &far]);
    assert_eq!(
        (&waiting["state"], &waiting["counts"]["held"]),
        (&"scheduled".into(), &1.into()),
        "{waiting}"
    );
    // A newer order of the same bundle name takes its place.
    let start = now() + 6.seconds();
    let scheduled = deployment(
        &ctl,
        &["app:1.0", "--device", "edge-1", "--at", &start.to_string()],
    );
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
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let before = now();
    let spread = deployment(&ctl, &["app:1.0", "--to", "*", "--spread", "12h"]);
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

    // With a start it is counted from there; what is without delay says nothing.
    let start = (now() + 20.hours()).to_string();
    let later = deployment(
        &ctl,
        &["app:1.0", "--to", "*", "--spread", "1h", "--at", &start],
    );
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
    let plain = deployment(&ctl, &["app:1.0", "--to", "*"]);
    let plain = ctl.json(&["deployment", "get", plain["id"].as_str().unwrap()]);
    assert!(plain["targets"][0]["opens_at"].is_null(), "{plain}");
}

async fn each_device_of_a_spread_begins_at_its_moment_and_not_before(database: Database) {
    // Who only listens sends no heartbeat.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let mut sessions = BTreeMap::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        let session = server.raw_device(name).await.connect(&server).await;
        sessions.insert(name.to_owned(), session);
    }
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let spread = deployment(&ctl, &["app:1.0", "--to", "*", "--spread", "10s"]);
    let shown = ctl.json(&["deployment", "get", spread["id"].as_str().unwrap()]);
    let mut told = JoinSet::new();
    for target in shown["targets"].as_array().unwrap() {
        // Nothing is shown of a moment that is past.
        let at: Option<Timestamp> = target["opens_at"].as_str().map(|at| at.parse().unwrap());
        let mut session = sessions
            .remove(target["device_name"].as_str().unwrap())
            .unwrap();
        told.spawn(async move {
            session.deploy_command().await;
            (at, now())
        });
    }
    let mut count = 0;
    while let Some(told) = told.join_next().await {
        let (opens, begun) = told.unwrap();
        assert!(
            opens.is_none_or(|opens| begun >= opens),
            "begun at {begun}, {opens:?} was its moment"
        );
        count += usize::from(opens.is_some());
    }
    assert!(count > 0, "every moment was past when it was looked at");
}

async fn a_deadline_stops_running_targets(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let agent = server.agent("edge-1").await;
    operator
        .push(
            &BundleBuilder::script(
                "app",
                "1.0",
                "echo $$ > \"$KERNEX_STATE_DIR/pid\"; sleep 3600",
            )
            .gzip()
            .await,
        )
        .await;
    let running = deployment(&ctl, &["app:1.0", "--device", "edge-1", "--deadline", "8s"]);
    let id = running["id"].as_str().unwrap();
    let done = operator.finished(id).await;
    assert_eq!(done.result(), DeploymentResult::Failed);
    assert_eq!(operator.target(id).await.state(), AttemptState::Expired);
    // The device may go on with something else: its script was killed, and it said so.
    let next = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
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
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
        (&["--at", "tomorrow"], "not a time"),
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

async fn a_dynamic_deployment_reaches_devices_that_enrol_or_are_labelled_later(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let made = deployment(
        &ctl,
        &[
            "app:1.0",
            "--to",
            "site=berlin,kernex.io/os=linux",
            "--dynamic",
        ],
    );
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        made["dynamic_selector"], "site=berlin,kernex.io/os=linux",
        "{made}"
    );
    let _one = server
        .agent_with(AgentOptions::named("edge-1").label("site", "berlin"))
        .await;
    let succeeded = |count: u32| {
        let (operator, id) = (operator.clone(), id.to_owned());
        async move {
            wait_for("the device to join and succeed", || async {
                let deployment = operator.deployment(&id).await;
                seen(
                    deployment
                        .counts
                        .as_ref()
                        .is_some_and(|counts| counts.succeeded == count),
                    deployment,
                )
            })
            .await
        }
    };
    succeeded(1).await;
    let _two = server
        .agent_with(AgentOptions::named("edge-2").label("site", "paris"))
        .await;
    let _ = ctl.ok(&["device", "label", "edge-2", "site=berlin"]);
    let deployment = succeeded(2).await;
    assert_eq!(deployment.state(), DeploymentState::Active, "it goes on");
    let refused = ctl.run(&["bundle", "delete", "app:1.0", "--yes"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    let _ = ctl.ok(&["deployment", "cancel", id, "--yes"]);
    assert_eq!(
        operator.finished(id).await.result(),
        DeploymentResult::Succeeded
    );
}

async fn a_device_that_keeps_failing_is_left_out_and_the_others_go_on(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _bad = server.agent("edge-1").await;
    let _good = server.agent("edge-2").await;
    let script = "test \"$KERNEX_DEVICE_NAME\" = edge-2";
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", script).gzip().await)
        .await;
    for _ in 0..3 {
        assert_eq!(
            operator.deploy_and_finish(&bundle, "edge-1").await.reason(),
            FailureReason::ScriptFailed
        );
    }
    let plan = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "edge-2", "--plan", "-o", "json",
    ]);
    assert_eq!(plan.code, Some(3), "{}", plan.stderr);
    let plans: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        (&plans[0]["verdict"], &plans[1]["verdict"]),
        (&"penalised".into(), &"would_run".into()),
        "{plans}"
    );
    assert!(
        plans[0]["note"]
            .as_str()
            .unwrap()
            .contains("3 times in a row"),
        "{plans}"
    );

    let failed = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "edge-2", "--watch",
    ]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    let id = ctl.json(&["deployment", "list"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let targets = operator.targets(&id).await;
    let left_out = targets
        .iter()
        .find(|target| target.device_name == "edge-1")
        .unwrap();
    assert_eq!(
        (left_out.state(), left_out.reason()),
        (AttemptState::Failed, FailureReason::Penalised)
    );
    assert!(left_out.message.contains("script_failed"), "{left_out:?}");
    assert!(
        targets
            .iter()
            .any(|target| target.state() == AttemptState::Succeeded),
        "the other one got it"
    );
}
