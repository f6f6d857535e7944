//! Each way a handshake can go wrong, over a stream made by hand.

use kernex_proto::ids::{ClusterId, DeviceId};

use super::*;

fn identity() -> Identity {
    Identity {
        device: DeviceId::generate(),
        name: "edge-1".into(),
        server: String::new(),
        cluster: ClusterId::generate(),
        ca_pem: String::new(),
        webpki: None,
        protocol_revision: 0,
    }
}

type Item = Result<v1::DeviceSessionResponse, Status>;

fn stream(message: Option<down::Message>) -> impl Stream<Item = Item> + Unpin {
    tokio_stream::iter([Ok(v1::DeviceSessionResponse { message })])
}

fn challenge(cluster: ClusterId, nonce: &[u8]) -> Option<down::Message> {
    Some(down::Message::Challenge(v1::Challenge {
        server_nonce: Bytes::copy_from_slice(nonce),
        cluster_id: cluster.to_string(),
        server_time: None,
        protocol_revision: 2,
    }))
}

fn welcome(epoch: u64, token: &str) -> Option<down::Message> {
    Some(down::Message::Welcome(v1::Welcome {
        epoch,
        session_token: token.into(),
        ..v1::Welcome::default()
    }))
}

#[tokio::test]
async fn a_good_challenge_and_welcome_pass() {
    let identity = identity();
    let mut good = stream(challenge(identity.cluster, &[1; 32]));
    let (_, revision) = expect_challenge(&mut good, &identity).await.unwrap();
    assert_eq!(revision, 2);
    let welcome = expect_welcome(&mut stream(welcome(4, "token")), 3, 2)
        .await
        .unwrap();
    assert_eq!((welcome.epoch, welcome.heartbeat), (4, DEFAULT_HEARTBEAT));
}

#[tokio::test]
async fn a_challenge_of_another_cluster_is_not_signed() {
    let mut other = stream(challenge(ClusterId::generate(), &[1; 32]));
    let err = expect_challenge(&mut other, &identity()).await.unwrap_err();
    assert!(matches!(err, HandshakeError::OtherCluster(_)), "{err}");
}

#[tokio::test]
async fn a_short_nonce_is_not_signed() {
    let identity = identity();
    let mut short = stream(challenge(identity.cluster, &[1; 16]));
    let err = expect_challenge(&mut short, &identity).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Malformed(_)), "{err}");
}

#[tokio::test]
async fn an_epoch_that_is_not_newer_is_refused() {
    for epoch in [0, 2, 3] {
        let err = expect_welcome(&mut stream(welcome(epoch, "t")), 3, 2)
            .await
            .unwrap_err();
        assert!(matches!(err, HandshakeError::Malformed(_)), "{err}");
    }
}

#[tokio::test]
async fn other_messages_ends_and_refusals_have_their_own_errors() {
    let err = expect_welcome(&mut stream(None), 0, 2).await.unwrap_err();
    assert!(
        matches!(
            err,
            HandshakeError::Unexpected {
                wanted: "Welcome",
                ..
            }
        ),
        "{err}"
    );
    let mut ended = tokio_stream::iter::<[Item; 0]>([]);
    let err = expect_welcome(&mut ended, 0, 2).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Ended("Welcome")), "{err}");
    let mut refused = tokio_stream::iter([Item::Err(Status::unauthenticated("no"))]);
    let err = expect_welcome(&mut refused, 0, 2).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Status(_)), "{err}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_after_its_deadline() {
    let mut silent = tokio_stream::pending::<Item>();
    let err = expect_welcome(&mut silent, 0, 2).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Timeout("Welcome")), "{err}");
}

/// What this agent makes of a server that announces a revision, when it has spoken `before` with
/// it.
async fn offered(announced: u32, before: u32) -> Result<u32, HandshakeError> {
    let identity = Identity {
        protocol_revision: before,
        ..identity()
    };
    let message = down::Message::Challenge(v1::Challenge {
        server_nonce: Bytes::from_static(&[1; 32]),
        cluster_id: identity.cluster.to_string(),
        server_time: None,
        protocol_revision: announced,
    });
    let challenge = expect_challenge(&mut stream(Some(message)), &identity).await;
    challenge.map(|(_, revision)| revision)
}

#[tokio::test]
async fn no_older_revision_is_spoken_than_before() {
    // An old server at the first contact, then an upgraded one, and one of tomorrow.
    for (announced, before, expected) in [
        (0, 0, 1),
        (1, 0, 1),
        (0, 1, 1),
        (2, 0, 2),
        (2, 1, 2),
        (2, 2, 2),
        (9, 2, 2),
    ] {
        assert_eq!(offered(announced, before).await.unwrap(), expected);
    }
    for announced in [0, 1] {
        let err = offered(announced, 2).await.unwrap_err();
        let downgraded = matches!(
            err,
            HandshakeError::Downgraded {
                offered: 1,
                before: 2
            }
        );
        assert!(downgraded, "{err}");
        assert!(err.to_string().contains("--allow-downgrade"), "{err}");
    }
}

#[tokio::test]
async fn the_revision_says_what_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let key = DeviceKey::load_or_generate(dir.path()).unwrap();
    let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
    let identity = identity();
    let proof = Proof {
        identity: &identity,
        key: &key,
        journal: &journal,
        binding: ChannelBinding::exported([5; 32]),
    };
    let challenge = v1::Challenge {
        server_nonce: Bytes::from_static(&[1; 32]),
        cluster_id: identity.cluster.to_string(),
        server_time: None,
        protocol_revision: 2,
    };
    let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::RSA_PSS_2048_8192_SHA256,
        key.public_der(),
    );
    let hello = unsigned_hello(&proof, 7).await.unwrap();

    let second = sign(&proof, &challenge, 2, hello.clone()).await.unwrap();
    let read = ReadHello::of(second).unwrap();
    let body = read.body.as_deref().unwrap();
    let transcript = SessionTranscript {
        cluster: identity.cluster,
        server_nonce: &challenge.server_nonce,
        client_nonce: &hello.client_nonce,
        binding: &proof.binding,
        key: key.digest(),
        body,
    };
    verifier
        .verify(&transcript.bytes(), &read.hello.signature)
        .unwrap();
    let unsigned = v1::Hello {
        signature: Bytes::new(),
        ..read.hello
    };
    assert_eq!(unsigned, hello);

    let first = sign(&proof, &challenge, 1, hello.clone()).await.unwrap();
    let read = ReadHello::of(first).unwrap();
    assert_eq!((read.revision(), read.hello.last_epoch), (1, 7));
    let transcript = SessionTranscriptV1 {
        cluster: identity.cluster,
        server_nonce: &challenge.server_nonce,
        client_nonce: &hello.client_nonce,
        device: identity.device,
        key: key.digest(),
        boot_id: &hello.boot_id,
        journal: journal.id(),
    };
    verifier
        .verify(&transcript.bytes(), &read.hello.signature)
        .unwrap();
}
