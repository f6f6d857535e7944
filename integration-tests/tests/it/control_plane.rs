//! `kernex-server` as a program: first start, mistakes in its settings, health, reflection and
//! stopping.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use kernex_integration_tests::{
    Database, ServerOptions, TestServer, both_databases,
    process::Process,
    server::{command, free_port},
};
use kernex_proto::v1::{WhoAmIRequest, access_service_client::AccessServiceClient};
use rustix::process::Signal;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// Runs a command that has to fail with one clear sentence; returns what it said.
fn complaint(mut command: Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

both_databases![
    health_and_reflection_answer,
    a_restarted_server_still_has_everything,
    migrating_by_hand_is_enough_and_may_be_repeated,
];

async fn health_and_reflection_answer(database: Database) {
    let server = TestServer::start(database).await;
    let channel = server.channel().await;
    let check = HealthCheckRequest {
        service: String::new(),
    };
    let health = HealthClient::new(channel.clone())
        .check(check)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let asked = client
        .server_reflection_info(tokio_stream::once(request.clone()))
        .await;
    assert_eq!(
        asked.unwrap_err().code(),
        Code::Unauthenticated,
        "the schema is for viewers"
    );
    let mut asked = tonic::Request::new(tokio_stream::once(request));
    let bearer = format!("Bearer {}", server.admin_token());
    asked
        .metadata_mut()
        .insert("authorization", bearer.parse().unwrap());
    let answers = client.server_reflection_info(asked).await.unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "AgentService",
        "DeviceService",
        "BundleService",
        "DeploymentService",
        "AccessService",
    ] {
        assert!(
            names.contains(&format!("kernex.v1.{name}").as_str()),
            "{names:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_open_reflection_everybody_may_ask_for_the_schema_and_for_nothing_else() {
    let options = ServerOptions::default().env("KERNEX_OPEN_REFLECTION", "true");
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let channel = server.channel().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("no token is asked for")
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(&answer, Some(MessageResponse::ListServicesResponse(list)) if !list.service.is_empty()),
        "{answer:?}"
    );
    let refused = AccessServiceClient::new(channel)
        .who_am_i(WhoAmIRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

async fn a_restarted_server_still_has_everything(database: Database) {
    let mut server = TestServer::start(database).await;
    server.raw_device("edge-1").await;
    let before = server.operator().device("edge-1").await;
    let cluster = server.operator().who_am_i().await.unwrap().cluster_id;
    server.stop();
    server.start_again().await;
    assert_eq!(server.operator().device("edge-1").await, before);
    assert_eq!(
        server.operator().who_am_i().await.unwrap().cluster_id,
        cluster
    );
}

async fn migrating_by_hand_is_enough_and_may_be_repeated(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let url = database.fresh_url(folder.path()).await;
    for _ in 0..2 {
        let mut migrate = command("migrate");
        migrate.arg("--data-dir").arg(folder.path());
        migrate.args(url.iter().flat_map(|url| ["--database-url", url.as_str()]));
        let output = migrate.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_prints_no_secret_and_says_the_next_step() {
    let server = TestServer::start(Database::Sqlite).await;
    for secret in ["ca.key", "server.key", "admin.token"] {
        let mode = fs::metadata(server.data().join(secret))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let log = server.process().log();
    assert!(
        log.contains("kernexctl context add"),
        "the next command to type: {log}"
    );
    assert!(
        !log.contains(&server.admin_token()),
        "the token itself stays in its file"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_answers_without_a_token() {
    let server = TestServer::start(Database::Sqlite).await;
    let stranger = server.operator().anonymous();
    let refused = stranger.try_device("x").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.details().len() < 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_refused_on_a_tls_port() {
    let server = TestServer::start(Database::Sqlite).await;
    let plain =
        tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{}", server.port()))
            .unwrap();
    let answer = match plain.connect().await {
        Ok(channel) => HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!answer);
}

#[test]
fn a_port_in_use_is_reported_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut serve = command("serve");
    serve
        .arg("--data-dir")
        .arg(folder.path())
        .args(["--listen", &address]);
    let said = complaint(serve);
    assert!(
        said.contains(&address) && said.contains("uses this port"),
        "{said}"
    );
}

#[test]
fn an_unwritable_folder_is_reported_in_one_sentence() {
    // A file where the folder should be: nobody can write there, not even root.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut serve = command("serve");
    serve.arg("--data-dir").arg(file.join("data"));
    serve.args(["--listen", &format!("127.0.0.1:{}", free_port())]);
    let said = complaint(serve);
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
}

#[test]
fn a_database_that_does_not_answer_is_reported_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command("serve");
    serve.arg("--data-dir").arg(folder.path());
    serve.args(["--listen", &format!("127.0.0.1:{}", free_port())]);
    serve.args([
        "--database-url",
        &format!(
            "postgres://kernex:secret-word@127.0.0.1:{}/kernex",
            free_port()
        ),
    ]);
    let said = complaint(serve);
    assert!(said.to_lowercase().contains("database"), "{said}");
    assert!(!said.contains("secret-word"), "{said}");
}

#[test]
fn bad_settings_are_reported_before_anything_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernex.toml");
    fs::write(&file, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let data = folder.path().join("data");
    for (words, part) in [
        (vec!["--config", file.to_str().unwrap()], "lisen"),
        (vec!["--listen", "nowhere"], "nowhere"),
        (vec!["--database-url", "mysql://x"], "postgres://"),
        (vec!["--no-such-flag"], "no-such-flag"),
        (vec!["--bundle-store", "gs://b/x"], "gs://b/x"),
        (vec!["--bundle-store", "file://x"], "write a folder"),
        (vec!["--bundle-store", ""], "write a folder"),
    ] {
        for verb in ["serve", "check-config"] {
            let mut command = command(verb);
            command.arg("--data-dir").arg(&data).args(&words);
            let said = complaint(command);
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }
    assert!(!data.exists());
    let mut good = command("check-config");
    let output = good.arg("--data-dir").arg(&data).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!data.exists(), "check-config changes nothing");
    let mut elsewhere = command("check-config");
    elsewhere.args(["--database-url", "postgres://no-such-host.invalid/x"]);
    let said = elsewhere.arg("--data-dir").arg(&data).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("Nothing was tried"), "{said}");
}

#[test]
fn a_store_that_cannot_be_used_leaves_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let data = folder.path().join("data");
    let mut serve = command("serve");
    serve.arg("--data-dir").arg(&data);
    serve.args(["--listen", "127.0.0.1:0"]);
    serve.arg("--bundle-store").arg(file.join("bundles"));
    let said = complaint(serve);
    assert!(said.contains("bundle store"), "{said}");
    assert!(!data.join("kernex.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_no_setting_is_named_at_the_start() {
    let options = ServerOptions::default().env("KERNEX_LISTEM", "1");
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let log = server.process().log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("KERNEX_LISTEM"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("KERNEX_LISTEN"),
        "{lines:?}"
    );
    let others = log.lines().filter(|line| line.contains("no setting has"));
    assert_eq!(others.count(), 1, "{log}");
    // The short commands say it as well.
    let folder = tempfile::tempdir().unwrap();
    let mut migrate = command("migrate");
    migrate.env("KERNEX_DATABASE_ULR", "postgres://x");
    migrate.arg("--data-dir").arg(folder.path());
    let output = migrate.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("warning:") && said.contains("KERNEX_DATABASE_URL"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let mut server = TestServer::start(Database::Sqlite).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    session.heartbeat(1).await;
    // The session never goes, so the soft stop would take its whole deadline.
    server.signal(Signal::TERM);
    session
        .next_where(|message| {
            matches!(
                message,
                kernex_proto::v1::device_session_response::Message::Drain(_)
            )
            .then_some(())
        })
        .await;
    server.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || server.ended_within(Duration::from_secs(5)));
    assert!(ended.await.unwrap(), "it went on");
}

#[test]
fn plaintext_works_on_loopback_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut serve = command("serve");
    serve
        .arg("--plaintext")
        .arg("--data-dir")
        .arg(folder.path());
    serve.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut process = Process::spawn("kernex-server", serve, &folder.path().join("log"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(kernex_integration_tests::wait_for(
        "plaintext to answer",
        || async {
            let endpoint =
                tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
            let channel = endpoint
                .unwrap()
                .connect()
                .await
                .map_err(|error| error.to_string())?;
            let answer = HealthClient::new(channel)
                .check(HealthCheckRequest::default())
                .await;
            answer
                .map(|answer| answer.into_inner().status())
                .map_err(|status| status.to_string())
        },
    ));
    assert_eq!(status, ServingStatus::Serving);
    process.stop();
}
