//! `kernex-agent support-bundle`, the program beside an agent: what it tells, and that no secret is
//! in it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use kernex_proto::{
    handshake::EnrollmentToken,
    ids::{ClusterId, Digest, TokenId},
    v1::{self, command::Action, device_session_request::Message, device_session_response as down},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{bench::Bench, fake_server::Session};

/// Stands wherever a secret can stand.
const SECRET: &str = "hunter2";
const USER: &str = "otter";

fn command(state_dir: &Path, file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernex-agent"));
    command
        .arg("support-bundle")
        .arg("--state-dir")
        .arg(state_dir)
        .arg("--output")
        .arg(file);
    command
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

async fn configure(session: &mut Session) {
    let configure = v1::Configure {
        revision: 4,
        values: [("PASSWORD".to_owned(), SECRET.to_owned())].into(),
        settings: Some(v1::AgentSettings {
            keep_releases: Some(3),
            ..v1::AgentSettings::default()
        }),
    };
    let command = v1::Command {
        epoch: session.epoch,
        action: Some(Action::Configure(configure)),
        ..v1::Command::default()
    };
    session.send(Some(down::Message::Command(command))).await;
    loop {
        if let Message::Configured(answer) = session.next().await.expect("a session") {
            assert!(answer.applied, "{answer:?}");
            return;
        }
    }
}

#[tokio::test]
async fn it_tells_how_an_agent_is_and_none_of_its_secrets() {
    let (mut bench, mut session) = Bench::connected().await;
    configure(&mut session).await;
    let bundle = bench.serve(&json!({
        "version": "1",
        "env": {"PASSWORD": SECRET},
        "deploy": {"script": format!("echo {SECRET}; echo {SECRET} > $KERNEX_STATE_DIR/x")},
    }));
    let outcome = session.deployed(&bundle).await;
    assert!(outcome.output_tail.contains(SECRET), "{outcome:?}");

    let token = EnrollmentToken {
        id: TokenId::generate(),
        cluster: ClusterId::generate(),
        ca_pin: Digest([0; 32]),
        webpki: None,
        secret: [7; 32],
    };
    let token_file = bench.near("token");
    fs::write(&token_file, token.to_text()).unwrap();
    let (state_dir, file) = (bench.state_dir(), bench.near("support.json"));
    let server = format!("http://{USER}:{SECRET}@{}", bench.server.address);
    let look = || {
        let mut command = command(&state_dir, &file);
        command
            .args(["--server", &server])
            .args(["--proxy", &format!("http://{USER}:{SECRET}@p:3128")])
            .env("https_proxy", format!("http://{USER}:{SECRET}@q:3128"))
            .env("KERNEX_AGENT_TOKEN_FILE", &token_file)
            .env("OTEL_RESOURCE_ATTRIBUTES", format!("key={SECRET}"));
        command.output()
    };
    let key = fs::read_to_string(state_dir.join("device.key")).unwrap();
    let secret_of_token = token.to_text().rsplit_once('.').unwrap().1.to_owned();
    let mut secrets: Vec<&str> = key.lines().filter(|line| !line.is_empty()).collect();
    secrets.extend([SECRET, secret_of_token.as_str(), USER]);

    // The journal is in use, and is read all the same.
    let beside = look().await.unwrap();
    assert!(beside.status.success(), "{}", said(&beside));
    let text = fs::read_to_string(&file).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["kernex_agent"], env!("CARGO_PKG_VERSION"));
    assert_eq!(found["status"]["connected"], true);
    assert_eq!(found["identity"]["trust"], "no TLS");
    // An enrolled device reads its token no more.
    assert_eq!(found["settings"]["as_started"]["token"], Value::Null);
    assert_eq!(found["settings"]["invalid"], Value::Null);
    let values = &found["settings"]["configuration"]["values"];
    assert_eq!(values["PASSWORD"], "(left out)");
    assert_eq!(found["settings"]["in_force"]["keep_releases"], 3);
    let environment = &found["settings"]["environment"];
    assert_eq!(environment["https_proxy"], "http://q:3128");
    assert_eq!(environment["KERNEX_AGENT_TOKEN_FILE"], json!(token_file));
    assert_eq!(environment["OTEL_RESOURCE_ATTRIBUTES"], "(left out)");
    let running = &found["settings"]["running"];
    assert!(running["arguments"][0].is_string(), "{running}");
    let checks = found["checks"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .any(|check| check["check"] == "tcp" && check["ok"] == true)
    );
    let attempt = &found["journal"]["attempts"][0];
    assert_eq!(attempt["state"], "succeeded");
    assert_eq!(attempt["digest"], bundle.digest.to_string());
    assert_eq!(attempt["marks"]["accepted_acknowledged"], true);
    assert_eq!(found["releases"][0]["name"], "app");
    let release = &found["releases"][0]["releases"][0];
    assert_eq!(
        (&release["current"], &release["digest"]),
        (&json!(true), &attempt["digest"])
    );
    assert!(found["disk"]["free_bytes"].as_u64().unwrap() > 0);
    let mounts = found["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["mounted_at"] == "/"));
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    bench.stop().await;
    let down = look().await.unwrap();
    assert!(down.status.success(), "{}", said(&down));
    let later = fs::read_to_string(&file).unwrap();
    let found: Value = serde_json::from_str(&later).unwrap();
    assert_eq!(found["journal"]["attempts"][0]["state"], "succeeded");

    for shown in [text, later, said(&beside), said(&down)] {
        for secret in &secrets {
            assert!(!shown.contains(secret), "{secret} is in {shown}");
        }
    }
}

#[tokio::test]
async fn settings_that_are_not_valid_are_told_without_what_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, file) = (
        dir.path().join("agent.toml"),
        dir.path().join("support.json"),
    );
    // The parser shows the line that it does not understand.
    fs::write(&settings, format!("token = {SECRET}\n")).unwrap();
    let mut command = command(&dir.path().join("state"), &file);
    let output = command
        .arg("--config")
        .arg(&settings)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(&file).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let invalid = found["settings"]["invalid"].as_str().unwrap();
    assert!(invalid.contains("agent.toml"), "{invalid}");
    assert!(invalid.contains("check-config"), "{invalid}");
    assert!(
        !text.contains(SECRET) && !said(&output).contains(SECRET),
        "{text}"
    );
    let wanted = dir.path().join("state").to_string_lossy().into_owned();
    assert_eq!(found["settings"]["as_started"]["state_dir"], wanted);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("missing/support.json");
    let output = command(dir.path(), &file).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.contains("support.json") && said.contains("--output"),
        "{said}"
    );
}
