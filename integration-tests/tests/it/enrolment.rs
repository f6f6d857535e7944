//! Enrolment: who becomes a device, and who is refused.

mod agents;

use std::fs;

use kernex_integration_tests::{
    Ctl, Database, RawIdentity, TestServer,
    agent::{bare_command, place_key},
    both_databases, keys,
    process::Process,
    raw_agent::{enrol, enroll_request},
    wait_for,
};
use kernex_proto::{
    handshake::EnrollmentToken,
    v1::{
        CreateEnrollmentTokenRequest, DeviceStatus, ListDevicesRequest,
        ListEnrollmentTokensRequest, RevokeEnrollmentTokenRequest,
    },
};
use serde_json::Value;
use tonic::Code;

both_databases![
    a_device_enrols_and_can_be_listed_and_read,
    lists_come_in_pages,
    a_device_that_enrols_again_uses_up_no_token,
    a_name_held_by_another_key_is_refused,
    enrolment_without_proof_of_the_key_reveals_nothing,
    a_revoked_token_lets_nobody_in,
    a_replace_token_gives_the_device_to_a_new_key,
    a_machine_enrols_at_its_first_start_with_a_credential_of_its_service_manager,
    enrolments_that_are_refused_are_in_the_audit,
];

async fn a_device_enrols_and_can_be_listed_and_read(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let token = operator.enrollment_token(&[("site", "berlin")]).await;
    let device = RawIdentity::enrol(&server, &token, server.new_key(), "edge-1")
        .await
        .unwrap();
    server.raw_device("edge-2").await;

    let list = |selector: &str| {
        let request = ListDevicesRequest {
            selector: selector.into(),
            ..Default::default()
        };
        let mut client = operator.devices();
        async move {
            client
                .list_devices(request)
                .await
                .unwrap()
                .into_inner()
                .devices
        }
    };
    let names: Vec<String> = list("")
        .await
        .into_iter()
        .map(|device| device.name)
        .collect();
    assert_eq!(names, ["edge-1", "edge-2"], "oldest first");
    let berlin = list("site=berlin").await;
    assert_eq!(berlin.len(), 1);
    assert_eq!(berlin[0].id, device.device.to_string());

    let by_name = operator.device("edge-1").await;
    assert_eq!(by_name, operator.device(&device.device.to_string()).await);
    assert_eq!(by_name.labels["site"], "berlin");
    assert_eq!(by_name.status(), DeviceStatus::Offline);
    let key = kernex_proto::ids::Digest::of(&device.public_key());
    assert_eq!(by_name.key_fingerprint, key.to_string());
    assert_eq!(
        operator.try_device("edge-9").await.unwrap_err().code(),
        Code::NotFound
    );
}

async fn lists_come_in_pages(database: Database) {
    let server = TestServer::start(database).await;
    for name in ["a", "b", "c"] {
        server.raw_device(name).await;
    }
    let mut client = server.operator().devices();
    let mut request = ListDevicesRequest {
        page_size: 2,
        ..Default::default()
    };
    let first = client
        .list_devices(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.devices.len(), 2);
    request.page_token = first.next_page_token;
    let second = client
        .list_devices(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(second.devices.len(), 1);
    assert_eq!(second.devices[0].name, "c");
    assert!(second.next_page_token.is_empty());
    request.page_token = "not a token".into();
    let refused = client.list_devices(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn a_device_that_enrols_again_uses_up_no_token(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let token = operator.enrollment_token(&[]).await;
    let key = server.new_key();
    let first = RawIdentity::enrol(&server, &token, key, "edge-1")
        .await
        .unwrap();
    let again = RawIdentity::enrol(&server, &token, key, "edge-1")
        .await
        .unwrap();
    assert_eq!(first.device, again.device);

    let other = RawIdentity::enrol(&server, &token, server.new_key(), "edge-2").await;
    assert_eq!(
        other.unwrap_err().code(),
        Code::Unauthenticated,
        "the one use is used up"
    );
    let list = ListEnrollmentTokensRequest::default();
    let tokens = operator
        .access()
        .list_enrollment_tokens(list)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (tokens.tokens[0].uses_left, tokens.tokens[0].uses_total),
        (0, 1)
    );
}

async fn a_name_held_by_another_key_is_refused(database: Database) {
    let server = TestServer::start(database).await;
    server.raw_device("edge-1").await;
    let token = server.operator().enrollment_token(&[]).await;
    let taken = RawIdentity::enrol(&server, &token, server.new_key(), "edge-1").await;
    assert_eq!(taken.unwrap_err().code(), Code::AlreadyExists);
    let free = RawIdentity::enrol(&server, &token, server.new_key(), "edge-2").await;
    assert_eq!(free.unwrap().name, "edge-2", "a refusal uses nothing up");
}

async fn enrolment_without_proof_of_the_key_reveals_nothing(database: Database) {
    let server = TestServer::start(database).await;
    let known = server.raw_device("edge-1").await;
    let text = server.operator().enrollment_token(&[]).await;
    let token: EnrollmentToken = text.parse().unwrap();
    let other = keys::key(server.new_key());
    let good = enroll_request(&token, &other, "edge-2");

    let mut altered_nonce = good.clone();
    altered_nonce.nonce = vec![0; 32].into();
    let mut stolen_key = good.clone();
    stolen_key.public_key = known.public_key().into();
    let mut wrong_secret = good.clone();
    wrong_secret.token_secret = "AAAA".repeat(10) + "AAA";
    let mut unknown_token = good.clone();
    unknown_token.token_id = known.device.to_string();
    let mut texts = Vec::new();
    for bad in [altered_nonce, stolen_key, wrong_secret, unknown_token] {
        let refused = enrol(&server, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        texts.push(refused.message().to_owned());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "one vague answer for all: {texts:?}");
    assert_eq!(enrol(&server, good).await.unwrap().device_name, "edge-2");
}

async fn a_revoked_token_lets_nobody_in(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let text = operator.enrollment_token(&[]).await;
    let token: EnrollmentToken = text.parse().unwrap();
    let request = RevokeEnrollmentTokenRequest {
        token_id: token.id.to_string(),
        ..Default::default()
    };
    operator
        .access()
        .revoke_enrollment_token(request)
        .await
        .unwrap();
    let refused = RawIdentity::enrol(&server, &text, server.new_key(), "edge-1").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Whoever has its secret may know why.
    assert!(
        refused
            .message()
            .contains("the enrolment token was revoked"),
        "{refused}"
    );
}

async fn a_replace_token_gives_the_device_to_a_new_key(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut old = server.raw_device("edge-1").await;
    let mut session = old.connect(&server).await;
    let token = operator
        .enrollment_token_for(CreateEnrollmentTokenRequest {
            replaces_device: "edge-1".into(),
            ..Default::default()
        })
        .await;
    let mut new = RawIdentity::enrol(&server, &token, server.new_key(), "")
        .await
        .unwrap();
    assert_eq!(
        (new.device, new.name.as_str()),
        (old.device, "edge-1"),
        "the device stays itself"
    );
    assert_eq!(
        session.end().await,
        Code::Unauthenticated,
        "its session ends"
    );
    let refused = old.try_connect(&server).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unauthenticated,
        "the old key is revoked"
    );
    let _session = new.connect(&server).await;
    operator.online("edge-1").await;
}

async fn a_machine_enrols_at_its_first_start_with_a_credential_of_its_service_manager(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let folder = server.scratch();
    let (state, credentials) = (folder.join("state"), folder.join("credentials"));
    let credential = credentials.join("kernex-agent.token");
    fs::create_dir_all(&credentials).unwrap();
    place_key(&state, server.new_key());
    let run = || {
        let mut command = bare_command("run");
        command
            .args(["--server", &server.url(), "--name", "edge-1"])
            .arg("--state-dir")
            .arg(&state)
            .env("CREDENTIALS_DIRECTORY", &credentials);
        command
    };
    // What is no token is told by its file, where one is needed.
    fs::write(&credential, "nothing\n").unwrap();
    let output = tokio::task::block_in_place(|| run().output()).unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let why = format!("{} has no enrolment token", credential.display());
    assert!(said.contains(&why), "{said}");

    let token = operator.enrollment_token(&[("site", "berlin")]).await;
    fs::write(&credential, format!("{token}\n")).unwrap();
    let log = folder.join("edge-1.log");
    let mut agent = Process::spawn("kernex-agent", run(), &log);
    wait_for("the machine to enrol", || async {
        operator
            .try_device("edge-1")
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    let device = operator.online("edge-1").await;
    assert_eq!(device.labels["site"], "berlin");
    agent.stop();
    operator.offline("edge-1").await;

    // An enrolled device does not depend on it any more.
    fs::write(&credential, "nothing\n").unwrap();
    let mut agent = Process::spawn("kernex-agent", run(), &log);
    operator.online("edge-1").await;
    agent.stop();
    fs::remove_file(&credential).unwrap();
    let mut command = run();
    command.arg("--token-file").arg(&credential);
    let mut agent = Process::spawn("kernex-agent", command, &log);
    operator.online("edge-1").await;
    agent.stop();
}

async fn enrolments_that_are_refused_are_in_the_audit(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let new_token = async || -> EnrollmentToken {
        let text = operator.enrollment_token(&[]).await;
        text.parse().unwrap()
    };
    let (token, revoked) = (new_token().await, new_token().await);
    let request = RevokeEnrollmentTokenRequest {
        token_id: revoked.id.to_string(),
        ..Default::default()
    };
    let done = operator.access().revoke_enrollment_token(request).await;
    done.unwrap();
    let key = keys::key(server.new_key());
    let mut guessed = enroll_request(&token, &key, "edge-2");
    guessed.token_secret = "AAAA".repeat(10) + "AAA";
    for (request, code) in [
        (guessed.clone(), Code::Unauthenticated),
        (guessed, Code::Unauthenticated),
        (
            enroll_request(&revoked, &key, "edge-2"),
            Code::Unauthenticated,
        ),
        (enroll_request(&token, &key, "edge-1"), Code::AlreadyExists),
    ] {
        let refused = enrol(&server, request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }

    let ctl = Ctl::on(&server);
    let entries = ctl.json(&["audit", "list", "--method", "Enroll"]);
    let found = |why: &str| {
        let all = entries.as_array().into_iter().flatten();
        let alike: Vec<&Value> = all.filter(|entry| entry["detail"]["why"] == why).collect();
        let count: u64 = alike.iter().filter_map(|it| it["count"].as_u64()).sum();
        let first = *alike.first().unwrap_or_else(|| panic!("{why}: {entries}"));
        let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("address"), "127.0.0.1");
        (text("result"), text("principal"), text("subject"), count)
    };
    let text = str::to_owned;
    let of = |token: &EnrollmentToken| format!("token {}", token.id);
    assert_eq!(
        found("wrong secret"),
        (text("unauthenticated"), String::new(), String::new(), 2)
    );
    assert_eq!(
        found("was revoked"),
        (text("unauthenticated"), of(&revoked), String::new(), 1)
    );
    assert_eq!(
        found("another key holds the device name"),
        (text("denied"), of(&token), text("edge-1"), 1)
    );
    let on = ctl.json(&["audit", "list", "--on", "edge-1", "--result", "denied"]);
    assert_eq!(on.as_array().map(Vec::len), Some(1), "{on}");
}
