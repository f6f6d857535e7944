//! Who guesses is limited, for each kind of credential, and keeps nobody out.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    Ctl, Database, RawIdentity, TestServer, both_databases,
    fleet::{Calls, Connector, WireError},
    keys,
    raw_agent::{WireSession, enroll_request},
    refusal::reason,
    wait::seen,
    wait_for,
};
use kernex_proto::{
    error::Reason,
    handshake::EnrollmentToken,
    v1::{
        CreateEnrollmentTokenRequest, CreateEnrollmentTokenResponse, DeviceSessionRequest,
        DeviceSessionResponse, EnrollRequest, EnrollResponse, Hello, ListDevicesResponse,
        device_session_request::Message as Up,
    },
};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Driven, ENROLL, LIST, SESSION, finish, status, with};

/// More tries than a source may have at once.
const TRIES: usize = 100;

async fn enrol(calls: &Calls, request: &EnrollRequest) -> Result<EnrollResponse, WireError> {
    let (mut up, mut down) = calls.open(ENROLL, &[]).await?;
    up.send(request)?;
    finish(&mut up);
    let answer = down.next::<EnrollResponse>().await?;
    Ok(answer.expect("an answer"))
}

/// Says a Hello that nobody can have meant; how the server ends that.
async fn wrong_hello(calls: &Calls) -> Result<(), WireError> {
    let (mut up, mut down) = calls.open(SESSION, &[]).await?;
    // It may be refused before it is challenged.
    let _ = up.send(&DeviceSessionRequest {
        message: Some(Up::Hello(Hello::default())),
    });
    while down.next::<DeviceSessionResponse>().await?.is_some() {}
    Ok(())
}

/// Asks with a token that does not exist.
async fn wrong_bearer(calls: &Calls) -> Status {
    let bad = [("authorization", "Bearer guess".to_owned())];
    let (mut up, mut down) = calls.open(LIST, &bad).await.expect("a call");
    finish(&mut up);
    status(down.next::<ListDevicesResponse>().await)
}

/// The first refusal that is not the usual one.
async fn limited(usual: Code, mut guess: impl AsyncFnMut() -> Status) -> Status {
    for _ in 0..TRIES {
        let refused = guess().await;
        if refused.code() != usual {
            return refused;
        }
    }
    panic!("{TRIES} guesses were all answered")
}

fn is_a_limit(refused: &Status) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(reason(refused), Some(Reason::Overloaded), "{refused}");
    assert!(
        refused
            .message()
            .contains("too many tries from your address"),
        "{refused}"
    );
    assert!(
        refused.get_error_details().retry_info().is_some(),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_enrolment_and_hellos_are_limited_and_a_device_gets_in_from_the_same_address() {
    let server = TestServer::start(Database::Sqlite).await;
    let connector = Connector::to(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
    let mut driven = Driven::default();
    let text = server.operator().enrollment_token(&[]).await;
    let token: EnrollmentToken = text.parse().expect("a token");
    let key = keys::key(server.new_key());
    let guessed = EnrollmentToken {
        secret: [9; 32],
        ..token.clone()
    };
    let guess = enroll_request(&guessed, &key, "edge-1");
    let calls = driven.drive(connector.connect(0).await.expect("connects"));
    let refused = limited(Code::Unauthenticated, async || {
        status(enrol(&calls, &guess).await)
    });
    is_a_limit(&refused.await);

    let calls = driven.drive(connector.connect(1).await.expect("connects"));
    let refused = limited(Code::InvalidArgument, async || {
        status(wrong_hello(&calls).await)
    });
    is_a_limit(&refused.await);

    // Enrolment and sessions have nothing to do with each other here, and both get in.
    let calls = driven.drive(connector.connect(2).await.expect("connects"));
    let request = enroll_request(&token, &key, "edge-1");
    let answer = enrol(&calls, &request).await.expect("the right token");
    let device = RawIdentity {
        device: answer.device_id.parse().expect("an id"),
        key,
        ..server.raw_device("edge-2").await
    };
    let mut wire = connector.connect(3).await.expect("connects");
    let (calls, binding) = (wire.calls.clone(), wire.binding);
    let living = async {
        let mut session = WireSession::open(&calls, &binding, &device).await?;
        session.heartbeat(1).await
    };
    wire.during(living).await.expect("the right key");
}

both_databases![devices_enrol_beside_a_flood_of_hellos];

async fn devices_enrol_beside_a_flood_of_hellos(database: Database) {
    let server = TestServer::start(database).await;
    let connector = Connector::to(&server);
    let said = Arc::new(AtomicU64::new(0));
    let mut flood = JoinSet::new();
    let known = server.raw_device("known").await;
    // Each has an address of its own, so that none is limited for long. A Hello of a device that
    // exists waits for its turn like an honest one.
    for number in 0..64 {
        let (connector, said, device) = (connector.clone(), Arc::clone(&said), known.clone());
        flood.spawn(async move {
            let hello = Hello {
                device_id: device.device.to_string(),
                client_nonce: vec![1; 32].into(),
                boot_id: "boot".into(),
                journal_id: device.journal.to_string(),
                protocol_revision: 1,
                signature: vec![7; 512].into(),
                ..Hello::default()
            };
            loop {
                // The flood is for the server, not for the processors of this machine.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let Ok(mut wire) = connector.connect(number).await else {
                    continue;
                };
                let calls = wire.calls.clone();
                let saying = async {
                    let (mut up, mut down) = calls.open(SESSION, &[]).await?;
                    down.next::<DeviceSessionResponse>().await?;
                    up.send(&DeviceSessionRequest {
                        message: Some(Up::Hello(hello.clone())),
                    })?;
                    said.fetch_add(1, Relaxed);
                    down.next::<DeviceSessionResponse>().await
                };
                let _ = wire.during(saying).await;
            }
        });
    }
    let more = async |than: u64| {
        wait_for("the flood to be on", || async {
            let said = said.load(Relaxed);
            seen(said > than, said)
        })
        .await
    };
    more(400).await;
    for number in 1..=5 {
        let token = server.operator().enrollment_token(&[]).await;
        let name = format!("edge-{number}");
        let begun = Instant::now();
        let enrolled = RawIdentity::enrol(&server, &token, server.new_key(), &name).await;
        enrolled.expect("nobody is sent away");
        eprintln!("{name} enrolled after {:?}", begun.elapsed());
        // The flood goes on.
        more(said.load(Relaxed)).await;
    }
    flood.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_guesses_and_the_audit_are_of_the_address_in_the_header() {
    const CREATE: &str = "/kernex.v1.AccessService/CreateEnrollmentToken";
    let server = with(Database::Sqlite, &[("KERNEX_TRUSTED_PROXIES", "127.9.0.1")]).await;
    let proxied = |last| {
        let caller = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, last), 4711);
        Connector::to(&server).proxied(Ipv4Addr::new(127, 9, 0, 1), Some(caller))
    };
    let (guesser, other) = (proxied(7), proxied(8));
    let mut driven = Driven::default();
    let calls = driven.drive(guesser.connect(0).await.expect("connects"));
    let refused = limited(Code::Unauthenticated, async || wrong_bearer(&calls).await);
    is_a_limit(&refused.await);
    let calls = driven.drive(other.connect(0).await.expect("connects"));
    for _ in 0..5 {
        let refused = wrong_bearer(&calls).await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }

    let admin = [("authorization", format!("Bearer {}", server.admin_token()))];
    let calls = driven.drive(other.connect(0).await.expect("connects"));
    let (mut up, mut down) = calls.open(CREATE, &admin).await.expect("a call");
    up.send(&CreateEnrollmentTokenRequest::default())
        .expect("sent");
    finish(&mut up);
    let made = down.next::<CreateEnrollmentTokenResponse>().await;
    assert!(made.expect("it is answered").is_some());
    let audit = Ctl::on(&server).json(&["audit", "list", "--method", "CreateEnrollmentToken"]);
    assert_eq!(audit[0]["address"], "203.0.113.8", "{audit}");
}
