//! Revocation ends everything at once: sessions, streams, uploads, downloads and cached tokens.

mod devices;
mod tokens;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    Database, Operator, RawIdentity, TestServer, raw_agent::RawSession, refusal::reason,
};
use kernex_proto::{
    error::Reason,
    v1::{
        CreateEnrollmentTokenRequest, CreateOperatorTokenRequest, RevokeOperatorTokenRequest, Role,
        WatchEventsRequest, device_session_response as down,
    },
};
use tonic::{Code, Status, Streaming};

/// Far more than the promised second, far less than the minute without a push.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let happened = tokio::time::timeout(SOON, happens).await;
    eprintln!("{what} ended after {:?}", begun.elapsed());
    happened.unwrap_or_else(|_| panic!("{what} goes on"))
}

/// Reads to the end; says how it ended, and what was read.
async fn end<T>(mut stream: Streaming<T>) -> (Status, Vec<T>) {
    let mut read = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (Status::ok("it ended well"), read),
            Err(status) => return (status, read),
        }
    }
}

/// How a session ends, and whether a command came before that.
async fn session_end(session: &mut RawSession) -> (Status, bool) {
    let mut commanded = false;
    loop {
        match session.next().await {
            Ok(Some(message)) => commanded |= matches!(message, down::Message::Command(_)),
            Ok(None) => panic!("it ended well"),
            Err(status) => return (status, commanded),
        }
    }
}

async fn replace(server: &TestServer, device: &str) -> RawIdentity {
    let request = CreateEnrollmentTokenRequest {
        replaces_device: device.into(),
        ..Default::default()
    };
    let token = server.operator().enrollment_token_for(request).await;
    let new = RawIdentity::enrol(server, &token, server.new_key(), "").await;
    new.expect("the new key takes the device over")
}

/// An operator with a token of its own.
struct TokenHolder {
    operator: Operator,
    token_id: String,
    token: String,
}

async fn token_holder(server: &TestServer, ttl_seconds: u64) -> TokenHolder {
    let request = CreateOperatorTokenRequest {
        name: "eve".into(),
        role: Role::Operator.into(),
        ttl_seconds,
        ..Default::default()
    };
    let made = server
        .operator()
        .access()
        .create_operator_token(request)
        .await;
    let made = made.expect("a token is made").into_inner();
    TokenHolder {
        operator: Operator::new(server.channel().await, &made.text),
        token_id: made.token_id,
        token: made.text,
    }
}

async fn revoke(server: &TestServer, token_id: &str) {
    let request = RevokeOperatorTokenRequest {
        token_id: token_id.to_owned(),
        ..Default::default()
    };
    let revoked = server
        .operator()
        .access()
        .revoke_operator_token(request)
        .await;
    revoked.expect("the token is revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_postgres),
    ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
)]
async fn a_revocation_on_one_replica_ends_sessions_on_the_other() {
    let first = TestServer::start(Database::Postgres).await;
    let second = first.replica().await;
    let mut old = first.raw_device("edge-1").await;
    let mut session = old.connect(&second).await;
    session.heartbeat(1).await;
    let eve = token_holder(&second, 0).await;
    let events = WatchEventsRequest {
        from_now: true,
        ..Default::default()
    };
    let events = eve.operator.events().watch_events(events).await.unwrap();

    replace(&first, "edge-1").await;
    let (status, _) = soon("the session", session_end(&mut session)).await;
    assert_eq!(reason(&status), Some(Reason::KeyReplaced), "{status}");
    revoke(&first, &eve.token_id).await;
    let (status, _) = soon("the watch", end(events.into_inner())).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let refused = eve.operator.who_am_i().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}
