use super::*;
use kernex_proto::ids::{Digest, TargetId};
use prost::Message as _;
use rsa::{
    PrivateKey,
    pkcs8::EncodePublicKey as _,
    pss::SigningKey,
    sha2::Sha256,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
};
use std::sync::OnceLock;

/// Small, so that it is made quickly. The size is checked at enrolment only.
fn private_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut rand::rng(), 2048).expect("a key"))
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

fn said() -> v1::Hello {
    v1::Hello {
        device_id: DeviceId::generate().to_string(),
        client_nonce: vec![7; NONCE_LEN].into(),
        boot_id: "boot".into(),
        journal_id: JournalId::generate().to_string(),
        last_epoch: 3,
        protocol_revision: 2,
        capabilities: vec!["stop".into()],
        agent_version: "1.2.3".into(),
        inventory: Some(v1::Inventory::default()),
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
    }
}

fn sign(transcript: &[u8]) -> Bytes {
    let signer = SigningKey::<Sha256>::new(private_key().clone());
    let signature = signer.sign_with_rng(&mut rand::rng(), transcript);
    signature.to_vec().into()
}

/// Signs these bytes as a body of revision 2.
fn seal(challenge: &Challenge, nonce: &[u8], body: Bytes) -> v1::Hello {
    let transcript = SessionTranscript {
        cluster: challenge.cluster,
        server_nonce: &challenge.nonce,
        client_nonce: nonce,
        binding: &challenge.binding,
        key: device_key().digest,
        body: &body,
    };
    let signature = sign(&transcript.bytes());
    ReadHello::sealed(body, signature)
}

/// Hello as a new agent sends it.
fn hello(challenge: &Challenge) -> v1::Hello {
    let said = said();
    seal(challenge, &said.client_nonce, ReadHello::body_of(&said))
}

/// Hello as an older agent sends it, or one that was made to believe in an old server.
fn hello_v1(challenge: &Challenge, known: u32) -> v1::Hello {
    let mut wire = said();
    wire.protocol_revision = known;
    let transcript = SessionTranscriptV1 {
        cluster: challenge.cluster,
        server_nonce: &challenge.nonce,
        client_nonce: &wire.client_nonce,
        device: wire.device_id.parse().expect("an id"),
        key: device_key().digest,
        boot_id: &wire.boot_id,
        journal: wire.journal_id.parse().expect("an id"),
    };
    wire.signature = sign(&transcript.bytes());
    wire
}

fn challenge() -> Challenge {
    Challenge::new(ClusterId::generate(), ChannelBinding::exported([9; 32]), 1)
}

fn checked(challenge: &Challenge, wire: v1::Hello) -> Result<Digest, HandshakeError> {
    let hello = Hello::try_from(wire)?;
    verify(challenge, &hello, Some(&device_key()))
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
    let challenge = challenge();
    let mut inbound = messages(vec![
        Message::Hello(hello(&challenge)),
        Message::Ready(v1::Ready { epoch: 4 }),
    ]);
    let hello = receive_hello(&mut inbound, soon()).await.expect("a Hello");
    assert_eq!(hello.held.len(), 1);
    assert_eq!((hello.revision(), hello.wire.last_epoch), (2, 3));
    verify(&challenge, &hello, Some(&device_key())).expect("the signature holds");
    let answered = receive_ready(&mut inbound, 4, soon()).await.expect("Ready");
    assert!(matches!(answered, Readiness::Ready));
}

#[test]
fn replayed_relayed_and_unknown_hellos_get_one_answer() {
    let here = challenge();
    let wire = hello(&here);
    assert!(checked(&here, wire.clone()).is_ok());
    // Somebody who ends TLS in between can relay the nonce, but it is another connection.
    let relayed = Challenge {
        binding: ChannelBinding::exported([8; 32]),
        ..here
    };
    let plain = Challenge {
        binding: ChannelBinding::PLAINTEXT,
        ..here
    };
    let elsewhere = Challenge {
        cluster: ClusterId::generate(),
        ..here
    };
    let again = Challenge::new(here.cluster, here.binding, 1);
    let parsed = Hello::try_from(wire.clone()).expect("well formed");
    for refused in [
        checked(&relayed, wire.clone()),
        checked(&plain, wire.clone()),
        checked(&elsewhere, wire.clone()),
        checked(&again, wire),
        verify(&here, &parsed, None),
    ] {
        let status = Status::from(refused.expect_err("refused"));
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), crate::error::unauthenticated().message());
    }
}

/// A field, and what somebody does to it.
type Change = (&'static str, fn(&mut v1::Hello));

#[test]
fn no_field_of_a_hello_can_be_changed_on_the_way() {
    let challenge = challenge();
    let changes: [Change; 11] = [
        ("device_id", |hello| {
            hello.device_id = DeviceId::generate().to_string()
        }),
        ("client_nonce", |hello| {
            hello.client_nonce = vec![8; NONCE_LEN].into()
        }),
        ("boot_id", |hello| hello.boot_id.push('x')),
        ("journal_id", |hello| {
            hello.journal_id = JournalId::generate().to_string()
        }),
        ("last_epoch", |hello| hello.last_epoch = u64::MAX >> 1),
        ("protocol_revision", |hello| hello.protocol_revision = 3),
        ("capabilities", |hello| hello.capabilities.clear()),
        ("agent_version", |hello| hello.agent_version.push('x')),
        ("inventory", |hello| hello.inventory = None),
        ("acknowledged_seq", |hello| hello.acknowledged_seq = Some(9)),
        ("held_attempts", |hello| hello.held_attempts.clear()),
    ];
    for (field, change) in changes {
        let mut wire = hello(&challenge);
        let mut inner = v1::Hello::decode(wire.body).expect("a Hello");
        change(&mut inner);
        wire.body = ReadHello::body_of(&inner);
        let refused = checked(&challenge, wire);
        assert!(
            matches!(refused, Err(HandshakeError::NotAuthenticated(_))),
            "{field}: {refused:?}"
        );
    }
    // Fields that this version does not know are covered, too, and a good signature over them
    // holds.
    let mut wire = hello(&challenge);
    let unknown = |body: &Bytes| Bytes::from([body, [0xf8, 0x3f, 0x01].as_slice()].concat());
    wire.body = unknown(&wire.body);
    assert!(matches!(
        checked(&challenge, wire),
        Err(HandshakeError::NotAuthenticated(_))
    ));
    let said = said();
    let later = seal(
        &challenge,
        &said.client_nonce,
        unknown(&ReadHello::body_of(&said)),
    );
    assert!(checked(&challenge, later).is_ok());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_bit_of_a_body_or_signature_can_be_changed(at in proptest::prelude::any::<proptest::sample::Index>(), bit in 0..8_u8, of_body in proptest::bool::ANY) {
        let challenge = challenge();
        let mut wire = hello(&challenge);
        let mut bytes = if of_body { wire.body.to_vec() } else { wire.signature.to_vec() };
        bytes[at.index(wire.body.len().min(wire.signature.len()))] ^= 1 << bit;
        if of_body { wire.body = bytes.into() } else { wire.signature = bytes.into() }
        proptest::prop_assert!(checked(&challenge, wire).is_err());
    }
}

#[test]
fn what_stands_beside_the_signed_body_is_never_taken() {
    let challenge = challenge();
    let mut beside = hello(&challenge);
    beside.last_epoch = 1 << 60;
    let mut nested = said();
    nested.body = Bytes::from_static(b"x");
    let nested = seal(
        &challenge,
        &nested.client_nonce,
        ReadHello::body_of(&nested),
    );
    let garbled = seal(&challenge, &[7; NONCE_LEN], Bytes::from_static(&[0xff; 9]));
    for wire in [beside, nested, garbled] {
        let refused = checked(&challenge, wire);
        assert!(
            matches!(refused, Err(HandshakeError::Malformed(_))),
            "{refused:?}"
        );
    }
}

#[test]
fn more_attempts_than_any_device_holds_are_refused_by_name_and_still_fit_into_a_hello() {
    let challenge = challenge();
    let attempt = AttemptId {
        target: TargetId::generate(),
        number: u32::MAX,
    };
    let holding = |many| {
        let mut said = said();
        let held = v1::HeldAttempt {
            attempt: Some(attempt.into()),
            state: v1::AttemptState::Succeeded.into(),
        };
        said.held_attempts = vec![held; many];
        seal(&challenge, &said.client_nonce, ReadHello::body_of(&said))
    };
    assert!(checked(&challenge, holding(MAX_HELD)).is_ok());
    let much = holding(MAX_HELD + 1);
    assert!(much.encoded_len() < 250 << 10);
    let refused = checked(&challenge, much);
    assert!(
        matches!(refused, Err(HandshakeError::TooManyHeld(many)) if many == MAX_HELD + 1),
        "{refused:?}"
    );
}

#[test]
fn an_older_revision_is_taken_from_agents_that_know_no_newer_one_until_the_server_wants_better() {
    let lenient = challenge();
    let strict = Challenge {
        least: 2,
        ..lenient
    };
    assert!(checked(&lenient, hello_v1(&lenient, 1)).is_ok());
    assert!(checked(&strict, hello(&strict)).is_ok());
    // Agents of later versions speak our revision, too.
    let mut tomorrow = said();
    tomorrow.protocol_revision = 7;
    let body = ReadHello::body_of(&tomorrow);
    assert!(checked(&strict, seal(&strict, &tomorrow.client_nonce, body)).is_ok());

    let old = checked(&strict, hello_v1(&strict, 1)).expect_err("too old");
    assert!(
        matches!(
            old,
            HandshakeError::ProtocolTooOld {
                spoken: 1,
                least: 2
            }
        ),
        "{old:?}"
    );
    // Somebody took the revision out of the challenge.
    let lowered = checked(&lenient, hello_v1(&lenient, 2)).expect_err("downgraded");
    assert!(
        matches!(
            lowered,
            HandshakeError::ProtocolDowngraded {
                spoken: 1,
                known: 2
            }
        ),
        "{lowered:?}"
    );
    for refusal in [old, lowered] {
        let status = Status::from(refusal);
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("revision"), "{status:?}");
    }
    // Without the key nobody is told.
    let mut forged = hello_v1(&strict, 1);
    forged.signature = vec![0; 256].into();
    let refused = checked(&strict, forged);
    assert!(
        matches!(refused, Err(HandshakeError::NotAuthenticated(_))),
        "{refused:?}"
    );
}

#[test]
fn a_challenge_says_which_revision_to_answer_by() {
    let message = challenge().message(Timestamp(0));
    assert_eq!(message.protocol_revision, PROTOCOL_REVISION);
}

#[tokio::test]
async fn messages_out_of_order_are_invalid() {
    let challenge = challenge();
    let mut short = said();
    short.client_nonce = vec![1].into();
    let short = seal(&challenge, &short.client_nonce, ReadHello::body_of(&short));
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
    assert!(matches!(ailing, Ok(Readiness::Ailing(_))), "{ailing:?}");
    let well = receive_ready(&mut beat(v1::DiskFault::Unspecified), 4, soon()).await;
    assert!(
        matches!(well, Err(HandshakeError::Malformed(_))),
        "{well:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_closed_at_the_deadline() {
    let mut silent = tokio_stream::pending();
    let refused = receive_hello(&mut silent, soon()).await;
    assert!(
        matches!(refused, Err(HandshakeError::TooSlow)),
        "{refused:?}"
    );
}
