use super::*;
use kernex_proto::ids::{Digest, TargetId};
use rsa::{
    RsaPrivateKey,
    pkcs8::EncodePublicKey as _,
    pss::BlindedSigningKey,
    sha2::Sha256,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
};
use std::sync::OnceLock;

/// Small enough to generate quickly; the size is checked at enrolment.
fn private_key() -> &'static RsaPrivateKey {
    static KEY: OnceLock<RsaPrivateKey> = OnceLock::new();
    KEY.get_or_init(|| RsaPrivateKey::new(&mut rand::rngs::OsRng, 2048).expect("a key"))
}

fn device_key() -> DeviceKey {
    let der = private_key()
        .to_public_key()
        .to_public_key_der()
        .expect("encodes")
        .into_vec();
    DeviceKey {
        digest: Digest::of(&der),
        der,
    }
}

fn hello(challenge: &Challenge) -> v1::Hello {
    let device = DeviceId::generate();
    let journal = JournalId::generate();
    let mut wire = v1::Hello {
        device_id: device.to_string(),
        client_nonce: vec![7; NONCE_LEN].into(),
        boot_id: "boot".into(),
        journal_id: journal.to_string(),
        protocol_revision: 1,
        held_attempts: vec![v1::HeldAttempt {
            attempt: Some(
                AttemptId {
                    target: TargetId::generate(),
                    number: 1,
                }
                .into(),
            ),
            state: v1::AttemptState::Running.into(),
        }],
        ..Default::default()
    };
    let transcript = SessionTranscript {
        cluster: challenge.cluster,
        server_nonce: &challenge.nonce,
        client_nonce: &wire.client_nonce,
        device,
        key: device_key().digest,
        boot_id: &wire.boot_id,
        journal,
    };
    let signer = BlindedSigningKey::<Sha256>::new(private_key().clone());
    wire.signature = signer
        .sign_with_rng(&mut rand::rngs::OsRng, &transcript.bytes())
        .to_vec()
        .into();
    wire
}

fn messages(
    list: Vec<Message>,
) -> impl Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin {
    tokio_stream::iter(list.into_iter().map(|message| {
        Ok(DeviceSessionRequest {
            message: Some(message),
        })
    }))
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

#[tokio::test]
async fn a_signed_hello_and_the_right_ready_open_the_session() {
    let challenge = Challenge::new(ClusterId::generate());
    let mut inbound = messages(vec![
        Message::Hello(hello(&challenge)),
        Message::Ready(v1::Ready { epoch: 4 }),
    ]);
    let hello = receive_hello(&mut inbound, soon()).await.expect("a Hello");
    assert_eq!(hello.held.len(), 1);
    verify(&challenge, &hello, Some(&device_key())).expect("the signature holds");
    let answered = receive_ready(&mut inbound, 4, soon()).await.expect("Ready");
    assert!(matches!(answered, Answered::Ready));
}

#[tokio::test]
async fn replayed_altered_and_unknown_hellos_get_one_answer() {
    let challenge = Challenge::new(ClusterId::generate());
    let wire = hello(&challenge);
    let replayed = Hello::try_from(wire.clone()).expect("well formed");
    let elsewhere = Challenge::new(challenge.cluster);
    let mut altered = Hello::try_from(wire.clone()).expect("well formed");
    altered.wire.boot_id.push('x');
    let other = Hello::try_from(wire).expect("well formed");
    let key = device_key();
    for refused in [
        verify(&elsewhere, &replayed, Some(&key)),
        verify(&challenge, &altered, Some(&key)),
        verify(&challenge, &other, None),
    ] {
        let status = Status::from(refused.expect_err("refused"));
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), unauthenticated().message());
    }
}

#[tokio::test]
async fn messages_out_of_order_are_invalid() {
    let challenge = Challenge::new(ClusterId::generate());
    let mut short = hello(&challenge);
    short.client_nonce = vec![1].into();
    for first in [
        Message::Ready(v1::Ready { epoch: 1 }),
        Message::Heartbeat(v1::Heartbeat::default()),
        Message::Hello(v1::Hello::default()),
        Message::Hello(short),
    ] {
        let refused = receive_hello(&mut messages(vec![first]), soon()).await;
        let status = Status::from(refused.expect_err("refused"));
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let mut inbound = messages(vec![Message::Ready(v1::Ready { epoch: 3 })]);
    let refused = receive_ready(&mut inbound, 4, soon()).await;
    let status = Status::from(refused.expect_err("refused"));
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn who_cannot_write_the_epoch_down_says_so_in_the_place_of_ready() {
    let beat = |fault: v1::DiskFault| {
        messages(vec![Message::Heartbeat(v1::Heartbeat {
            disk_fault: fault.into(),
            ..v1::Heartbeat::default()
        })])
    };
    let ailing = receive_ready(&mut beat(v1::DiskFault::ReadOnly), 4, soon()).await;
    assert!(matches!(ailing, Ok(Answered::Ailing(_))), "{ailing:?}");
    let well = receive_ready(&mut beat(v1::DiskFault::Unspecified), 4, soon()).await;
    assert!(matches!(well, Err(Refusal::Malformed(_))), "{well:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_closed_at_the_deadline() {
    let mut silent = tokio_stream::pending();
    let refused = receive_hello(&mut silent, soon()).await;
    assert!(matches!(refused, Err(Refusal::TooSlow)), "{refused:?}");
}
