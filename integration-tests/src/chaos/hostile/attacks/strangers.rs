//! What can be held or guessed without a key or a token.

use std::time::Duration;

use bytes::Bytes;
use kernex_proto::v1::{
    AttemptRef, Challenge, DeviceSessionRequest, DeviceSessionResponse, EnrollRequest, HeldAttempt,
    Hello, device_session_request as up, device_session_response as down,
};
use prost::Message as _;
use tokio::{io::AsyncWriteExt as _, time::sleep};

use super::super::target::Target;
use crate::fleet::{Calls, Receiver, Sender, WireError};

const ENROLL: &str = "/kernex.v1.AgentService/Enroll";
const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";
const WHO_AM_I: &str = "/kernex.v1.AccessService/WhoAmI";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";

/// How long an attacker holds its connection, unless the server ends it.
const HELD: Duration = Duration::from_secs(60);

/// Between two guesses of one guesser.
const GUESS: Duration = Duration::from_millis(2);

/// The window of a client that reads answers.
const WINDOW: u32 = 65_535;

pub(super) async fn silent_tcp(target: &Target, _: usize) {
    hold_tcp(target, &[]).await;
}

pub(super) async fn half_a_handshake(target: &Target, _: usize) {
    // The header of a TLS record and the first byte of a ClientHello that never comes.
    hold_tcp(target, &[22, 3, 1, 2, 0, 1]).await;
}

async fn hold_tcp(target: &Target, bytes: &[u8]) {
    let mut held = Vec::new();
    for _ in 0..target.many(300) {
        if let Ok(mut stream) = target.tcp().await
            && stream.write_all(bytes).await.is_ok()
        {
            target.did();
            held.push(stream);
        }
    }
    sleep(Duration::from_secs(5)).await;
}

/// Connections on which nothing is asked; pings are answered.
pub(super) async fn idle_http(target: &Target, _: usize) {
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..target.many(300) {
        if let Ok(mut wire) = target.wire(WINDOW).await {
            target.did();
            held.spawn(async move { wire.drive().await });
        }
    }
    let all = async { while held.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(HELD, all).await;
}

/// Opens so many calls on a connection and does `work` while it lives.
async fn calls(
    target: &Target,
    path: &'static str,
    count: usize,
    work: impl AsyncFnOnce(&mut Vec<(Sender, Receiver)>) -> Result<(), WireError>,
) {
    let Ok(mut wire) = target.wire(WINDOW).await else {
        return;
    };
    let open = wire.calls.clone();
    let working = async {
        let mut opened = Vec::new();
        for _ in 0..count {
            opened.push(open.open(path, &[]).await?);
            target.did();
        }
        work(&mut opened).await
    };
    let _ = wire.during(working).await;
}

pub(super) async fn silent_sessions(target: &Target, _: usize) {
    calls(target, SESSION, target.many(250), async |_| {
        sleep(HELD).await;
        Ok(())
    })
    .await;
}

/// Requests that announce 2 MiB and send nearly all of it.
pub(super) async fn endless_enrolments(target: &Target, _: usize) {
    const ANNOUNCED: u32 = (2 << 20) - 64;
    let count = target.many(250);
    calls(target, ENROLL, count, async |opened| {
        let mut head = vec![0];
        head.extend(ANNOUNCED.to_be_bytes());
        for (sender, _) in opened.iter_mut() {
            sender.bytes(Bytes::from(head.clone())).await?;
        }
        for _ in 0..ANNOUNCED / (16 << 10) - 1 {
            for (sender, _) in opened.iter_mut() {
                sender.bytes(Bytes::from_static(&[0; 16 << 10])).await?;
            }
        }
        sleep(HELD).await;
        Ok(())
    })
    .await;
}

/// As many connections as a source may have before anything on them has authenticated. Each sends
/// as much of an enrolment as the server takes, in as many calls as it may have.
pub(super) async fn connections_that_enrol(target: &Target, _: usize) {
    const ANNOUNCED: u32 = 16_000;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..target.many(256) {
        let Ok(mut wire) = target.wire(WINDOW).await else {
            continue;
        };
        target.did();
        held.spawn(async move {
            let open = wire.calls.clone();
            let sending = async {
                let mut opened = Vec::new();
                for _ in 0..8 {
                    let (mut sender, receiver) = open.open(ENROLL, &[]).await?;
                    let mut most = vec![0; ANNOUNCED as usize];
                    most[1..5].copy_from_slice(&ANNOUNCED.to_be_bytes());
                    sender.bytes(most.into()).await?;
                    opened.push((sender, receiver));
                }
                sleep(HELD).await;
                Ok::<_, WireError>(())
            };
            let _ = wire.during(sending).await;
        });
    }
    while held.join_next().await.is_some() {}
}

/// Says a Hello to each challenge.
async fn hellos(target: &Target, hello: impl Fn(Challenge) -> Hello) {
    answer(target, |challenge| {
        let message = DeviceSessionRequest {
            message: Some(up::Message::Hello(hello(challenge))),
        };
        message.encode_to_vec()
    })
    .await;
}

/// Answers a challenge with these bytes as one message.
async fn answer(target: &Target, message: impl Fn(Challenge) -> Vec<u8>) {
    let Ok(mut wire) = target.wire(WINDOW).await else {
        return;
    };
    let open = wire.calls.clone();
    let talking = async {
        let (mut sender, mut receiver) = open.open(SESSION, &[]).await?;
        let first: Option<DeviceSessionResponse> = receiver.next().await?;
        let Some(down::Message::Challenge(challenge)) = first.and_then(|first| first.message)
        else {
            return Err(WireError::NotGrpc("no challenge"));
        };
        sender.send_bytes(&message(challenge))?;
        target.did();
        receiver.skip().await
    };
    let _ = wire.during(talking).await;
}

/// Groups in groups, as deep as a Hello may be long.
pub(super) async fn nested_groups(target: &Target, _: usize) {
    // The beginning of a group of field 1000.
    answer(target, |_| [0xc3, 0x3e].repeat(120_000)).await;
}

pub(super) async fn wrong_hellos(target: &Target, _: usize) {
    let rogue = target.rogue();
    hellos(target, |_| Hello {
        device_id: rogue.device.to_string(),
        client_nonce: vec![1; 32].into(),
        boot_id: "boot".into(),
        journal_id: rogue.journal.to_string(),
        protocol_revision: 1,
        signature: vec![7; 512].into(),
        ..Hello::default()
    })
    .await;
}

pub(super) async fn huge_hellos(target: &Target, _: usize) {
    let held = HeldAttempt {
        attempt: Some(AttemptRef::default()),
        state: 1,
    };
    hellos(target, |_| Hello {
        held_attempts: vec![held.clone(); 60_000],
        signature: vec![7; 512].into(),
        ..Hello::default()
    })
    .await;
}

/// Asks again and again on one connection.
async fn guess(target: &Target, mut once: impl AsyncFnMut(&Calls) -> Result<(), WireError>) {
    let Ok(mut wire) = target.wire(WINDOW).await else {
        return;
    };
    let open = wire.calls.clone();
    let guessing = async {
        loop {
            match once(&open).await {
                // A refusal is what a guesser expects.
                Ok(()) | Err(WireError::Status(_)) => target.did(),
                Err(error) => return Err::<(), _>(error),
            }
            sleep(GUESS).await;
        }
    };
    let _ = wire.during(guessing).await;
}

pub(super) async fn guessed_tokens(target: &Target, _: usize) {
    guess(target, async |open| {
        let token = format!("Bearer kxo1.{}", hex::encode(rand::random::<[u8; 32]>()));
        let (mut sender, mut receiver) = open.open(WHO_AM_I, &[("authorization", token)]).await?;
        sender.send(&())?;
        sender.finish()?;
        receiver.skip().await.map(|_| ())
    })
    .await;
}

pub(super) async fn guessed_enrolments(target: &Target, _: usize) {
    guess(target, async |open| {
        let (mut sender, mut receiver) = open.open(ENROLL, &[]).await?;
        sender.send(&EnrollRequest {
            token_id: uuid::Uuid::now_v7().to_string(),
            token_secret: hex::encode(rand::random::<[u8; 32]>()),
            public_key: vec![1; 550].into(),
            nonce: vec![1; 32].into(),
            signature: vec![1; 512].into(),
            ..EnrollRequest::default()
        })?;
        sender.finish()?;
        receiver.skip().await.map(|_| ())
    })
    .await;
}

pub(super) async fn health_watches(target: &Target, _: usize) {
    calls(target, HEALTH, 100, async |opened| {
        for (sender, _) in opened.iter_mut() {
            sender.send(&())?;
            sender.finish()?;
        }
        sleep(HELD).await;
        Ok(())
    })
    .await;
}
