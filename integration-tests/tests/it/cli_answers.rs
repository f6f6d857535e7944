//! What `kernexctl` answers to mistakes, to signals and about what is not done yet.

use std::{fs, fs::File, time::Duration};

use kernex_integration_tests::{
    BundleBuilder, Ctl, Database, TestServer, both_databases, process::Process, wait::seen,
    wait_for,
};
use rustix::process::Signal;
use serde_json::json;

both_databases![
    a_push_that_is_interrupted_leaves_no_archive,
    a_deployment_is_named_in_every_way_wherever_one_is_named,
    a_name_that_is_taken_has_a_way_out_of_its_own,
    the_same_files_in_another_compression_are_told_as_such,
    a_canary_of_the_whole_fleet_is_told,
    a_watch_names_who_is_not_done_and_marks_what_failed,
    the_token_in_use_is_told_when_it_is_revoked,
    a_pull_replaces_no_other_file,
    a_configuration_says_what_it_no_longer_has,
    what_cannot_be_stopped_or_deleted_is_told_with_names,
    names_are_printed_once_for_programs,
    devices_are_listed_by_name_for_people,
];

async fn a_push_that_is_interrupted_leaves_no_archive(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let (app, temporary) = (server.scratch().join("app"), server.scratch().join("tmp"));
    fs::create_dir_all(&temporary).unwrap();
    let _ = ctl.ok(&["bundle", "init", "app", "--name", "app"]);
    // Takes no room here, and seconds to pack.
    let large = File::create(app.join("large")).unwrap();
    large.set_len(16 << 30).unwrap();
    for words in [
        &["bundle", "push", "app"][..],
        &["deploy", "app", "--to", "*"][..],
    ] {
        let mut push = ctl.command(words);
        push.env("TMPDIR", &temporary);
        let log = server.scratch().join("push.log");
        let mut push = Process::spawn("kernexctl push", push, &log);
        let left = || fs::read_dir(&temporary).unwrap().count();
        wait_for("an archive is begun", || async { seen(left() > 0, ()) }).await;
        push.signal(Signal::INT);
        let ended = tokio::task::block_in_place(|| push.wait_within(Duration::from_secs(30)));
        assert_eq!(
            ended.and_then(|status| status.code()),
            Some(130),
            "{words:?}"
        );
        assert_eq!(left(), 0, "{words:?}");
    }
}

async fn a_deployment_is_named_in_every_way_wherever_one_is_named(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    server
        .operator()
        .push_script("app", "1.0", "echo hello")
        .await;
    let done = ctl.run(&[
        "deploy",
        "app:1.0",
        "--device",
        "edge-1",
        "--name",
        "nightly.7",
        "--watch",
    ]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let list = ctl.json(&["deployment", "list"]);
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    for named in ["nightly.7", &id, &id[..13]] {
        let text = ctl.ok(&["output", "--deployment", named]);
        assert!(text.contains("| hello"), "{named}: {text}");
        let text = ctl.ok(&["output", "edge-1", "--deployment", named]);
        assert!(text.contains("| hello"), "{named}: {text}");
        let _ = ctl.ok(&["get", "deployment", named]);
        let _ = ctl.ok(&["wait", "deployment", named]);
    }
    let table = ctl.ok(&["deployment", "list"]);
    assert!(
        table.contains("NAME") && table.contains("nightly.7"),
        "{table}"
    );
    let nobody = ctl.run(&["output", "--deployment", "nightly.8"]);
    assert_eq!(nobody.code, Some(5), "{}", nobody.stderr);
    let none = ctl.run(&["deployment", "get", "nightly.7", "--state", "failed"]);
    assert!(none.stderr.contains("No target matches"), "{}", none.stderr);
}

async fn a_name_that_is_taken_has_a_way_out_of_its_own(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _device = server.raw_device("edge-1").await;
    server.operator().push_script("app", "1.0", "true").await;
    let deploy = |name: &str| ctl.run(&["deploy", "app:1.0", "--device", "edge-1", "--name", name]);
    let first = deploy("at.1");
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(
        first.stderr.contains("deployment watch at.1"),
        "{}",
        first.stderr
    );
    let again = deploy("at.1");
    assert_eq!(again.code, Some(5), "{}", again.stderr);
    assert!(
        again.stderr.contains("another `--name`"),
        "{}",
        again.stderr
    );
    assert!(!again.stderr.contains("manifest.json"), "{}", again.stderr);
    let wrong = deploy("x y");
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("letters, digits"), "{}", wrong.stderr);
    let late = ctl.run(&[
        "deploy",
        "app:1.0",
        "--device",
        "edge-1",
        "--deadline",
        "2020-01-01T00:00:00Z",
    ]);
    assert_eq!(late.code, Some(2), "{}", late.stderr);
    assert!(late.stderr.contains("`--deadline`"), "{}", late.stderr);
}

async fn the_same_files_in_another_compression_are_told_as_such(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _ = ctl.ok(&["bundle", "init", "app", "--name", "app"]);
    let _ = ctl.ok(&["bundle", "push", "app"]);
    let other = ctl.run(&["bundle", "push", "app", "--zstd"]);
    assert_eq!(other.code, Some(5), "{}", other.stderr);
    assert!(
        other.stderr.contains("with the same files, as tar.gz"),
        "{}",
        other.stderr
    );
    assert!(
        other.stderr.contains("without `--zstd`"),
        "{}",
        other.stderr
    );
    fs::write(server.scratch().join("app/more"), "x").unwrap();
    for words in [
        &["bundle", "push", "app", "--zstd"][..],
        &["bundle", "push", "app"][..],
    ] {
        let changed = ctl.run(words);
        assert_eq!(changed.code, Some(5), "{}", changed.stderr);
        assert!(
            changed.stderr.contains("Raise `version`"),
            "{}",
            changed.stderr
        );
    }
}

async fn a_canary_of_the_whole_fleet_is_told(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    for name in ["edge-1", "edge-2"] {
        let _device = server.raw_device(name).await;
    }
    server.operator().push_script("app", "1.0", "true").await;
    let deploy = |canary: &str, more: &[&str]| {
        let words = ["deploy", "app:1.0", "--to", "*", "--canary", canary];
        ctl.run(&[&words, more].concat()).stderr
    };
    for more in [&["--plan"][..], &[][..]] {
        let said = deploy("2", more);
        assert!(said.contains("all begin at once"), "{more:?}: {said}");
        let said = deploy("1", more);
        assert!(!said.contains("all begin at once"), "{more:?}: {said}");
    }
}

async fn a_watch_names_who_is_not_done_and_marks_what_failed(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let _device = server.raw_device("edge-2").await;
    operator.push_script("app", "1.0", "true").await;
    let waited = ctl.run(&[
        "deploy",
        "app:1.0",
        "--device",
        "edge-1",
        "edge-2",
        "--watch",
        "--timeout",
        "5s",
    ]);
    assert_eq!(waited.code, Some(6), "{}", waited.stderr);
    assert!(
        waited
            .stderr
            .contains("is not finished yet: edge-2 (its device is away"),
        "{}",
        waited.stderr
    );
    let manifest = json!({
        "name": "bad", "version": "1.0",
        "deploy": { "script": "echo one; sleep 0.2; echo oops >&2; exit 7" },
    });
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let _ = operator.push(&archive).await;
    let failed = ctl.run(&["deploy", "bad:1.0", "--device", "edge-1", "--watch"]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    for part in ["--- deploy.script", "| one", "! oops"] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
}

async fn the_token_in_use_is_told_when_it_is_revoked(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _ = ctl.ok(&["token", "create", "ci", "--role", "viewer"]);
    let nobody = ctl.run(&["token", "revoke", "nope", "--yes"]);
    assert_eq!(nobody.code, Some(5), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("token list"), "{}", nobody.stderr);
    let other = ctl.run(&["token", "revoke", "ci", "--yes"]);
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    assert!(!other.stderr.contains("this context"), "{}", other.stderr);
    let asked = ctl.run(&["token", "revoke", "admin"]);
    assert_eq!(asked.code, Some(2), "{}", asked.stderr);
    assert!(
        asked.stderr.contains("nothing works with it"),
        "{}",
        asked.stderr
    );
    // The last admin token could not be revoked.
    let _ = ctl.ok(&["token", "create", "second", "--role", "admin"]);
    let own = ctl.run(&["token", "revoke", "admin", "--yes"]);
    assert_eq!(own.code, Some(0), "{}", own.stderr);
    assert!(
        own.stderr.contains("the one of this context"),
        "{}",
        own.stderr
    );
}

async fn a_pull_replaces_no_other_file(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    server.operator().push_script("app", "1.0", "true").await;
    let pull = |words: &[&str]| ctl.run(&[&["bundle", "pull", "app:1.0"], words].concat());
    let first = pull(&[]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let file = server.scratch().join(first.stdout.trim());
    let bytes = fs::read(&file).unwrap();
    let again = pull(&[]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
    assert!(again.stderr.contains("the same bytes"), "{}", again.stderr);
    fs::write(&file, "mine").unwrap();
    let refused = pull(&[]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let forced = pull(&["--force"]);
    assert_eq!(forced.code, Some(0), "{}", forced.stderr);
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

async fn a_configuration_says_what_it_no_longer_has(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let set = |words: &[&str]| {
        let done = ctl.run(&[&["config", "set", "c1", "--to", "*"], words].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stderr
    };
    assert_eq!(set(&["--heartbeat", "10s", "--value", "A=1"]), "");
    let said = set(&["--log", "debug", "--value", "A=2"]);
    assert!(
        said.contains("Revision 1 had also --heartbeat: name everything"),
        "{said}"
    );
    let wrong = ctl.run(&["config", "set", "c1", "--to", "*", "--value", "=x"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("NAME=VALUE"), "{}", wrong.stderr);
}

async fn what_cannot_be_stopped_or_deleted_is_told_with_names(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    let operator = server.operator();
    operator.push_script("app", "1.0", "true").await;
    let order = ["deploy", "app:1.0", "--device", "edge-1", "--name", "one"];
    let _ = ctl.ok(&[&order[..], &["-w"]].concat());
    let needed = ctl.run(&["bundle", "delete", "app:1.0", "--yes"]);
    assert_eq!(needed.code, Some(5), "{}", needed.stderr);
    assert!(
        needed.stderr.contains("device edge-1 runs it"),
        "{}",
        needed.stderr
    );
    // Nobody is asked about what cannot be done.
    let finished = ctl.run(&["deployment", "cancel", "one"]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    let said = "the deployment one is finished: 1 of 1 succeeded";
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    for verb in ["cancel", "halt", "rollback"] {
        let unknown = ctl.run(&["deployment", verb, "two"]);
        assert_eq!(unknown.code, Some(5), "{verb}: {}", unknown.stderr);
    }
    let all = ctl.run(&["bundle", "delete", "--gc", "--older-than", "0s", "--yes"]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert!(
        all.stderr.contains("Still needed: 1 bundle."),
        "{}",
        all.stderr
    );
}

async fn names_are_printed_once_for_programs(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    server.operator().push_script("app", "1.0", "true").await;
    let printed = ctl.ok(&[
        "deploy", "app:1.0", "--device", "edge-1", "-w", "-o", "name",
    ]);
    let list = ctl.json(&["deployment", "list"]);
    assert_eq!(printed.trim(), list[0]["id"].as_str().expect("an id"));
}

async fn devices_are_listed_by_name_for_people(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    for name in ["edge-10", "edge-2", "edge-1"] {
        server.raw_device(name).await;
    }
    let first_words = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split(' ').next());
        lines.map(str::to_owned).collect()
    };
    let table = ctl.ok(&["device", "list", "--no-headers"]);
    assert_eq!(first_words(&table), ["edge-1", "edge-2", "edge-10"]);
    let names = ctl.ok(&["device", "list", "-o", "name"]);
    let enrolled = ["edge-10", "edge-2", "edge-1"];
    assert_eq!(first_words(&names), enrolled, "as they enrolled");
}
