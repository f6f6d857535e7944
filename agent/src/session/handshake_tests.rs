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
    expect_challenge(&mut good, &identity).await.unwrap();
    let welcome = expect_welcome(&mut stream(welcome(4, "token")), 3)
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
        let err = expect_welcome(&mut stream(welcome(epoch, "t")), 3)
            .await
            .unwrap_err();
        assert!(matches!(err, HandshakeError::Malformed(_)), "{err}");
    }
}

#[tokio::test]
async fn other_messages_ends_and_refusals_have_their_own_errors() {
    let err = expect_welcome(&mut stream(None), 0).await.unwrap_err();
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
    let err = expect_welcome(&mut ended, 0).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Ended("Welcome")), "{err}");
    let mut refused = tokio_stream::iter([Item::Err(Status::unauthenticated("no"))]);
    let err = expect_welcome(&mut refused, 0).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Status(_)), "{err}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_after_its_deadline() {
    let mut silent = tokio_stream::pending::<Item>();
    let err = expect_welcome(&mut silent, 0).await.unwrap_err();
    assert!(matches!(err, HandshakeError::Timeout("Welcome")), "{err}");
}
