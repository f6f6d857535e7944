//! `kernexctl` as people and scripts use it: what it prints where, and how it exits.

use std::{fs, process::Stdio};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Ctl, Database, TestServer, both_databases, server::free_port,
};
use kernex_proto::v1::{CreateOperatorTokenRequest, Role};

const NOT_FOUND: Option<i32> = Some(5);

both_databases![
    a_folder_is_packed_pushed_and_deployed_to_a_device,
    unused_bundles_are_garbage_collected,
    exit_codes_say_what_happened,
];

async fn a_folder_is_packed_pushed_and_deployed_to_a_device(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let app = server.scratch().join("app");
    let _ = ctl.ok(&["bundle", "init", "app", "--name", "app"]);
    assert!(app.join("manifest.json").exists());
    let token = ctl.json(&[
        "enrollment",
        "create",
        "--uses",
        "2",
        "--label",
        "site=berlin",
    ]);
    let text = token["text"].as_str().expect("the text of the token");
    assert!(text.starts_with("kxe1."), "{token}");
    let _one = server
        .agent_with(AgentOptions::named("edge-1").label("site", "berlin"))
        .await;
    let _two = server
        .agent_with(AgentOptions::named("edge-2").label("site", "paris"))
        .await;

    let devices = ctl.json(&["device", "list"]);
    assert_eq!(devices.as_array().map(Vec::len), Some(2), "{devices}");
    let names = ctl.ok(&["device", "list", "-l", "site=berlin", "-o", "name"]);
    assert_eq!(names.trim(), "edge-1");
    let _ = ctl.ok(&["device", "label", "edge-2", "canary=yes", "site-"]);

    let pushed = ctl.json(&["bundle", "push", "app"]);
    let bundle = format!("app:{}", pushed["version"].as_str().expect("a version"));
    let pulled = server.scratch().join("pulled.tar.gz");
    let _ = ctl.ok(&["bundle", "pull", &bundle, "-o", pulled.to_str().unwrap()]);
    let digest = kernex_proto::ids::Digest::of(&fs::read(&pulled).unwrap()).to_string();
    assert_eq!(pushed["digest"], digest.as_str());
    let piped = ctl
        .command(&["bundle", "pull", &bundle, "-o", "-"])
        .output();
    assert_eq!(
        piped.expect("it can be started").stdout,
        fs::read(&pulled).unwrap()
    );
    assert!(!server.scratch().join("-").exists());

    let deployed = ctl.run(&["deploy", &bundle, "--to", "site=berlin", "--watch"]);
    assert_eq!(
        deployed.code,
        Some(0),
        "{}\n{}",
        deployed.stdout,
        deployed.stderr
    );
    let device = ctl.json(&["device", "get", "edge-1"]);
    assert!(device.to_string().contains(&digest), "{device}");
    let history = ctl.json(&["device", "history", "edge-1"]);
    assert_eq!(history.as_array().map(Vec::len), Some(1), "{history}");
    let deployments = ctl.json(&["deployment", "list"]);
    let id = deployments[0]["id"].as_str().expect("an id").to_owned();
    let shown = ctl.ok(&["deployment", "get", &id]);
    assert!(
        shown.contains("edge-1") && shown.contains("succeeded"),
        "{shown}"
    );
    let yaml = ctl.ok(&["device", "get", "edge-1", "-o", "yaml"]);
    assert!(yaml.contains("name: edge-1"), "{yaml}");
}

async fn unused_bundles_are_garbage_collected(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    for version in ["1.0", "2.0", "3.0"] {
        let archive = BundleBuilder::script("app", version, "true").gzip().await;
        let _ = server.operator().push(&archive).await;
    }
    let deployed = ctl.run(&["deploy", "app:2.0", "--device", "edge-1", "--watch"]);
    assert_eq!(deployed.code, Some(0), "{}", deployed.stderr);
    let young = ctl.run(&["bundle", "delete", "--gc", "--yes"]);
    assert_eq!(
        (young.code, young.stdout.as_str()),
        (Some(0), ""),
        "{}",
        young.stderr
    );
    let wait = ctl.run(&["bundle", "delete", "app:1.0", "--gc", "--yes"]);
    assert_eq!(wait.code, Some(2), "one or all, not both");
    kernex_integration_tests::wait_for("two bundles to be old enough", || async {
        let done = ctl.run(&["bundle", "delete", "--gc", "--older-than", "1s", "--yes"]);
        let left = ctl.ok(&["bundle", "list", "-o", "name"]);
        kernex_integration_tests::wait::seen(left.trim() == "app:2.0", (left, done))
    })
    .await;
    assert_eq!(server.blobs().len(), 1, "and their bytes with them");
}

async fn exit_codes_say_what_happened(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    assert_eq!(ctl.run(&["device", "get", "nobody"]).code, NOT_FOUND);
    assert_eq!(ctl.run(&["device", "gett"]).code, Some(2));
    assert_eq!(
        ctl.run(&["deploy", "app:1.0", "--device", "edge-1"]).code,
        NOT_FOUND
    );

    let folder = server.scratch().join("app");
    fs::create_dir(&folder).unwrap();
    let manifest = |script: &str, version: &str| {
        let text =
            serde_json::json!({"name": "app", "version": version, "deploy": {"script": script}});
        fs::write(folder.join("manifest.json"), text.to_string()).unwrap();
    };
    manifest("exit 9", "1.0");
    let failed = ctl.run(&["deploy", "app", "--device", "edge-1", "--watch"]);
    assert_eq!(failed.code, Some(3), "{}\n{}", failed.stdout, failed.stderr);
    let everything = failed.stdout + &failed.stderr;
    assert!(everything.contains("script_failed"), "{everything}");
    manifest("true", "1.0");
    let conflict = ctl.run(&["bundle", "push", "app"]);
    assert_eq!(
        conflict.code, NOT_FOUND,
        "other bytes under the same name: {}",
        conflict.stderr
    );
    manifest("sleep 600", "2.0");
    let slow = ctl.run(&[
        "deploy",
        "app",
        "--device",
        "edge-1",
        "--watch",
        "--timeout",
        "2s",
    ]);
    assert_eq!(slow.code, Some(6), "{}", slow.stderr);
    let running = ctl.json(&["deployment", "list"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let _ = ctl.ok(&["deployment", "cancel", &running, "--yes"]);
    server.operator().finished(&running).await;

    let make = CreateOperatorTokenRequest {
        name: "v".into(),
        role: Role::Viewer.into(),
        ..Default::default()
    };
    let token = server
        .operator()
        .access()
        .create_operator_token(make)
        .await
        .unwrap()
        .into_inner()
        .text;
    let mut push = ctl.command(&["bundle", "push", "app"]);
    push.env("KERNEX_TOKEN", token)
        .env("KERNEX_SERVER", server.url())
        .env("KERNEX_CA", server.data().join("ca.pem"));
    let refused = push.output().unwrap();
    assert_eq!(
        refused.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
}

#[test]
fn an_unreachable_server_is_exit_code_seven_with_a_next_step() {
    let home = tempfile::tempdir().unwrap();
    let mut list = Ctl::at(home.path()).command(&["device", "list"]);
    list.env("KERNEX_SERVER", format!("http://127.0.0.1:{}", free_port()))
        .env("KERNEX_TOKEN", "kxo1.x");
    let output = list.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(output.stdout.is_empty());
    assert!(
        said.lines().count() >= 2,
        "an error and what to do next: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ca_and_a_wrong_host_name_each_have_a_next_step() {
    let server = TestServer::start(Database::Sqlite).await;
    let stranger = TestServer::start(Database::Sqlite).await;
    let home = tempfile::tempdir().unwrap();
    let said = |url: String, ca: &TestServer| {
        let mut list = Ctl::at(home.path()).command(&["device", "list"]);
        list.env("KERNEX_SERVER", url)
            .env("KERNEX_TOKEN", "kxo1.x")
            .env("KERNEX_CA", ca.data().join("ca.pem"));
        let output = list.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{said}");
        said
    };
    let other_ca = said(server.url(), &stranger);
    assert!(other_ca.contains("fresh `ca.pem`"), "{other_ca}");
    let url = server.url().replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let other_name = said(url, &server);
    assert!(other_name.contains("--public-address"), "{other_name}");
}

#[test]
fn without_a_context_it_says_how_to_make_one() {
    let home = tempfile::tempdir().unwrap();
    let done = Ctl::at(home.path()).run(&["device", "list"]);
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("context add"), "{}", done.stderr);
    assert!(done.stdout.is_empty());
}

#[test]
fn packing_is_reproducible_and_honours_kernexignore() {
    let home = tempfile::tempdir().unwrap();
    let ctl = Ctl::at(home.path());
    for copy in ["one", "two"] {
        let folder = home.path().join(copy);
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("manifest.json"),
            r#"{"name": "app", "version": "1.0"}"#,
        )
        .unwrap();
        fs::write(folder.join(".kernexignore"), "*.log\n").unwrap();
        fs::write(folder.join("noise.log"), copy).unwrap();
        let _ = ctl.ok(&["bundle", "pack", copy, "-o", &format!("{copy}.tar.gz")]);
    }
    let one = fs::read(home.path().join("one.tar.gz")).unwrap();
    assert_eq!(one, fs::read(home.path().join("two.tar.gz")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_no_error() {
    let server = TestServer::start(Database::Sqlite).await;
    let ctl = Ctl::on(&server);
    server.raw_device("edge-1").await;
    let mut list = ctl.command(&["device", "list"]);
    let mut child = list
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains("panicked") && !said.contains("roken pipe"),
        "{said}"
    );
}

#[test]
fn completions_are_printed_for_each_shell() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = Ctl::at(home.path()).ok(&["completion", shell]);
        assert!(script.contains("kernexctl"), "{shell}");
    }
}
