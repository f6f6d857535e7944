//! Lists and summaries of a fleet of thirty thousand, as `kernexctl` prints them.

use kernex_integration_tests::{
    Ctl, Database, TestServer, both_databases, ctl::CtlOutput, rows::Rows,
};
use kernex_proto::v1::{GetFleetSummaryRequest, ListDevicesRequest, WatchEventsRequest};
use tonic::Code;

both_databases![
    thirty_thousand_devices_are_summed_up_filtered_and_never_cut_in_silence,
    a_watch_of_some_kinds_gets_no_others_and_an_unknown_kind_is_refused,
    names_short_ids_and_verbs_before_nouns_are_understood,
];

fn fleet() -> Rows {
    Rows {
        devices: 30_000,
        prefix: "edge-".into(),
    }
}

async fn fill(server: &TestServer, rows: &Rows) -> String {
    let file = server.data().join("kernex.db");
    let sqlite = format!("sqlite://{}", file.display());
    let url = server.database_url().map_or(sqlite, str::to_owned);
    let deployment = rows.write(&url).await.expect("rows can be written");
    deployment.to_string()
}

/// What a command shows on a terminal of 80 columns.
fn screen(ctl: &Ctl<'_>, words: &[&str]) -> CtlOutput {
    let shown = ctl
        .command(words)
        .env("COLUMNS", "80")
        .output()
        .expect("kernexctl can be started");
    let shown = CtlOutput::from(shown);
    fits(&words.join(" "), &shown.stdout);
    shown
}

/// No line of a screen is longer than a terminal, and the screen is short.
fn fits(what: &str, text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{what}: {line}");
    }
    assert!(text.lines().count() <= 60, "{what}: {text}");
}

async fn thirty_thousand_devices_are_summed_up_filtered_and_never_cut_in_silence(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let rows = fleet();
    let deployment = fill(&server, &rows).await;
    let ctl = Ctl::on(&server);

    let summary = server
        .operator()
        .fleet()
        .get_fleet_summary(GetFleetSummaryRequest::default())
        .await
        .expect("a summary")
        .into_inner();
    let counts = summary.devices.expect("counts");
    assert_eq!(counts.total, u64::from(rows.devices));
    assert_eq!(counts.online, u64::from(rows.online()));
    assert_eq!(counts.conflicted, u64::from(rows.conflicted()));
    assert_eq!(counts.drifted, u64::from(rows.drifted()));
    assert_eq!(summary.failed_deployments.len(), 1);
    let status = screen(&ctl, &["status"]).stdout;
    assert!(status.contains("Devices:      30000: "), "{status}");
    assert!(status.contains("edge-tool:2.0 on "), "{status}");

    // A list that is cut says how much is left.
    let some = screen(&ctl, &["device", "list", "--limit", "20", "--sort", "name"]);
    assert_eq!(some.stdout.lines().count(), 21, "{}", some.stdout);
    assert!(
        some.stderr.contains("29980 more devices"),
        "{}",
        some.stderr
    );
    assert!(
        some.stdout
            .lines()
            .nth(3)
            .is_some_and(|line| line.starts_with("edge-2 "))
    );
    assert!(
        some.stderr
            .contains("All 30000 devices were read to sort them by name"),
        "{}",
        some.stderr
    );
    // What a filter leaves empty is not a fleet without devices.
    for (words, said) in [
        (
            &["device", "list", "-l", "site=nowhere"][..],
            "No device matches.",
        ),
        (
            &["device", "list", "--name", "nobody"],
            "No device matches.",
        ),
        (
            &["deployment", "list", "--by", "nobody"],
            "No deployment matches.",
        ),
        (
            &["bundle", "list", "--name", "nothing"],
            "No bundle matches.",
        ),
    ] {
        let none = ctl.run(words);
        assert_eq!(
            (none.code, none.stdout.as_str()),
            (Some(0), ""),
            "{words:?}"
        );
        assert!(none.stderr.starts_with(said), "{words:?}: {}", none.stderr);
    }
    let drifted = ctl.json(&["device", "list", "--drifted"]);
    assert_eq!(
        drifted.as_array().map(Vec::len),
        Some(rows.drifted() as usize)
    );
    let lines = ctl.ok(&["device", "list", "--conflicted", "-o", "jsonl"]);
    assert_eq!(lines.lines().count(), rows.conflicted() as usize);
    for line in lines.lines() {
        let device: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(device["status"], "conflicted");
    }
    let columns = ctl.ok(&[
        "device",
        "list",
        "--name",
        "edge-1?",
        "--columns",
        "name,agent",
        "--no-headers",
        "--sort",
        "-name",
    ]);
    assert_eq!(columns.lines().count(), 10, "{columns}");
    assert_eq!(columns.lines().next(), Some("edge-19  0.1.0"), "{columns}");

    // Of many targets only the failed ones are shown; the rest is counted.
    let shown = screen(&ctl, &["deployment", "get", &deployment[..13]]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("disk_full"), "{}", shown.stdout);
    assert!(
        shown
            .stderr
            .contains("Shown are 20 of the 300 that failed or are under way, of 30000 targets"),
        "{}",
        shown.stderr
    );
    let failed = ctl.ok(&[
        "deployment",
        "get",
        &deployment,
        "--state",
        "failed",
        "--reason",
        "disk_full",
        "--limit",
        "0",
    ]);
    let listed = failed
        .lines()
        .filter(|line| line.starts_with("edge-"))
        .count();
    assert_eq!(listed, rows.failed() as usize);
    let none = ctl.json(&["deployment", "list", "--state", "open"]);
    assert_eq!(none.as_array().map(Vec::len), Some(0), "{none}");
    let failed = ctl.json(&["deployment", "list", "--state", "failed", "--by", "rows"]);
    assert_eq!(failed.as_array().map(Vec::len), Some(1), "{failed}");

    // A plan of everything is ten lines and the counts.
    let plan = screen(
        &ctl,
        &["deploy", "edge-tool", "--to", "site=site-7", "--plan"],
    );
    assert!(plan.stdout.lines().count() <= 11, "{}", plan.stdout);
    assert!(
        plan.stderr.contains("740 more are shown with `--all`"),
        "{}",
        plan.stderr
    );

    let wrong = ctl.run(&["device", "list", "--columns", "colour"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("last-seen"), "{}", wrong.stderr);
}

async fn a_watch_of_some_kinds_gets_no_others_and_an_unknown_kind_is_refused(database: Database) {
    let server = TestServer::start(database).await;
    let _agent = server.agent("edge-1").await;
    let operator = server.operator();
    let watch = |kinds: &[&str]| WatchEventsRequest {
        kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
        ..Default::default()
    };
    let refused = operator.events().watch_events(watch(&["nope"])).await;
    let refused = refused.expect_err("there is no such kind");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("device.enrolled"), "{refused:?}");
    let wanted = watch(&["device.online"]);
    let mut events = operator
        .events()
        .watch_events(wanted)
        .await
        .expect("a watch")
        .into_inner();
    // Events of other kinds are passed over.
    let first = loop {
        let message = events.message().await.expect("no error").expect("no end");
        match message.event {
            Some(event) => break event,
            None => assert!(message.cursor > 0),
        }
    };
    assert_eq!(first.kind, "device.online");
    let ctl = Ctl::on(&server);
    let wrong = ctl.run(&["event", "watch", "--kind", "nope"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}

async fn names_short_ids_and_verbs_before_nouns_are_understood(database: Database) {
    let server = TestServer::start(database).await;
    let rows = Rows {
        devices: 200,
        ..fleet()
    };
    let deployment = fill(&server, &rows).await;
    let ctl = Ctl::on(&server);
    let whoami = ctl.json(&["whoami"]);
    assert_eq!(whoami["role"], "admin", "{whoami}");
    let version = ctl.json(&["version"]);
    assert_eq!(version["client"], version["server"], "{version}");
    let listed = ctl.ok(&["-o", "name", "get", "devices", "--limit", "0"]);
    assert_eq!(listed.lines().count(), 200);
    let two = ctl.json(&["describe", "devices", "edge-1", "edge-2"]);
    assert_eq!(two.as_array().map(Vec::len), Some(2), "{two}");
    let newest = ctl.json(&["get", "bundle", "edge-tool"]);
    assert_eq!(newest["version"], "2.0", "{newest}");
    let digest = newest["digest"].as_str().expect("a digest");
    let same = ctl.json(&["bundle", "get", &digest[..12]]);
    assert_eq!(same, newest);
    let shown = ctl.json(&["get", "deployment", &deployment[..13]]);
    assert_eq!(shown["id"], deployment.as_str());
    let table = ctl.ok(&["deployment", "ls"]);
    assert!(table.contains(&deployment[..13]), "{table}");
    assert!(!table.contains(&deployment), "{table}");
    let made = ctl.json(&[
        "deploy",
        "edge-tool",
        "--device",
        "edge-1",
        "--name",
        "nightly.7",
    ]);
    let by_name = ctl.json(&["deployment", "get", "nightly.7"]);
    assert_eq!(by_name["id"], made["id"], "{made}");
    let taken = ctl.run(&[
        "deploy",
        "edge-tool",
        "--device",
        "edge-2",
        "--name",
        "nightly.7",
    ]);
    assert_eq!(taken.code, Some(5), "{}", taken.stderr);
    let id = [
        "deploy",
        "edge-tool",
        "--device",
        "edge-2",
        "--name",
        "0123-abc",
    ];
    assert_eq!(ctl.run(&id).code, Some(2), "a name that looks like an id");
    for unknown in ["ffffffff", "nonsense"] {
        assert_ne!(
            ctl.run(&["deployment", "get", unknown]).code,
            Some(0),
            "{unknown}"
        );
    }

    // Labels of many at once; the same again changes nothing.
    let refused = ctl.run(&["device", "label", "-l", "site=site-7", "wave=2"]);
    assert_eq!(refused.code, Some(2), "it asks: {}", refused.stderr);
    let line = ["device", "label", "-l", "site=site-7", "wave=2", "--yes"];
    let changed = ctl.run(&line);
    assert!(changed.stderr.contains("5 devices"), "{}", changed.stderr);
    let again = ctl.run(&line);
    assert!(
        again.stderr.contains("5 devices had these labels"),
        "{}",
        again.stderr
    );
    let labelled = ctl.ok(&["device", "list", "-l", "wave=2", "-o", "name"]);
    assert_eq!(labelled.lines().count(), 5, "{labelled}");

    let waited = ctl.run(&[
        "wait",
        "device",
        "edge-1",
        "--for",
        "offline",
        "--timeout",
        "5s",
    ]);
    assert_eq!(waited.code, Some(0), "{}", waited.stderr);
    let waited = ctl.run(&["wait", "device", "edge-1", "--timeout", "1s"]);
    assert_eq!(waited.code, Some(6), "{}", waited.stderr);
    let waited = ctl.run(&["wait", "device", "nobody", "--timeout", "60s"]);
    assert_eq!(waited.code, Some(5), "{}", waited.stderr);

    // A shell is given names that the server knows.
    let mut shell = ctl.command(&["--", "kernexctl", "device", "get", "edge-19"]);
    let shell = shell
        .env("KERNEXCTL_COMPLETE", "fish")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .output()
        .expect("kernexctl can be started");
    let suggested = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(suggested.contains("edge-199"), "{suggested}");

    let file = server.scratch().join("support.json");
    let _ = ctl.ok(&["support-bundle", &file.to_string_lossy()]);
    let support = std::fs::read_to_string(&file).expect("a file");
    assert!(support.contains("disk_full"), "{support}");
    assert!(!support.contains(&server.admin_token()), "no secrets");

    let doctor = ctl.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}\n{}", doctor.stdout, doctor.stderr);
    let page = server
        .operator()
        .devices()
        .list_devices(ListDevicesRequest {
            count: true,
            page_size: 1,
            ..Default::default()
        })
        .await
        .expect("a page")
        .into_inner();
    assert_eq!((page.devices.len(), page.total), (1, Some(200)));
}
