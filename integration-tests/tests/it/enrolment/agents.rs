//! `kernex-agent enroll`: its key, and the servers it does not talk to.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use kernex_integration_tests::{
    Database, TestServer,
    agent::{bare_command, place_key},
    fake_server::FakeServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_makes_its_own_key_once_and_keeps_it_to_itself() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let state = server.scratch().join("state");
    let token = operator.enrollment_token(&[]).await;
    let enroll = || enroll(&server.url(), &token, &state);
    let first = enroll();
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    let run = format!("`kernex-agent run --state-dir {}`", state.display());
    let said = String::from_utf8_lossy(&first.stdout);
    assert!(said.contains(&run), "{run} in {said}");
    let key = fs::read_to_string(state.join("device.key")).unwrap();
    let mode = fs::metadata(state.join("device.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(enroll().status.success(), "enrolling again is fine");
    assert_eq!(fs::read_to_string(state.join("device.key")).unwrap(), key);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_certificate_does_not_name_is_refused_with_the_names_it_has() {
    // Its certificate is for 127.0.0.1 alone, and `localhost` leads there too.
    let server = FakeServer::start().await;
    let state = tempfile::tempdir().unwrap();
    place_key(state.path(), 0);
    let url = server.url().replace("127.0.0.1", "localhost");
    let output = enroll(&url, &server.token(), state.path());
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let names = "the certificate is for 127.0.0.1, not for localhost";
    for part in [names, "--public-address"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_talk_to_a_server_with_another_ca() {
    let real = FakeServer::start().await;
    let other = FakeServer::start().await;
    let state = tempfile::tempdir().unwrap();
    place_key(state.path(), 0);
    let output = enroll(&other.url(), &real.token(), state.path());
    assert!(!output.status.success());
    assert!(
        !state.path().join("device.json").exists(),
        "nothing was believed"
    );
}

fn enroll(server: &str, token: &str, state: &Path) -> Output {
    let mut command = bare_command("enroll");
    command.args(["--server", server, "--token", token, "--name", "edge-1"]);
    command.arg("--state-dir").arg(state).output().unwrap()
}
