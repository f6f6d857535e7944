//! Uploads that must be refused, and what they leave.

use super::*;
use tonic::Code;
use tonic_types::StatusExt as _;

type Messages = Vec<Result<v1::UploadBundleRequest, Status>>;

fn message(message: Message) -> Result<v1::UploadBundleRequest, Status> {
    Ok(v1::UploadBundleRequest {
        message: Some(message),
    })
}

fn begin(begin: v1::UploadBegin) -> Result<v1::UploadBundleRequest, Status> {
    message(Message::Begin(begin))
}

fn chunk(bytes: &'static [u8]) -> Result<v1::UploadBundleRequest, Status> {
    message(Message::Chunk(bytes.into()))
}

/// Sends the messages and gives the reason of the refusal; the store must be left empty.
async fn refused(messages: Messages) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    let allowed = Allowed {
        size: 10,
        limits: Limits::default(),
    };
    let status = receive(&blobs, allowed, tokio_stream::iter(messages))
        .await
        .map(|upload| upload.bundle)
        .expect_err("is refused");
    assert_eq!(
        blobs.sweep_temporary().await.expect("sweeps"),
        0,
        "something was left"
    );
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

#[tokio::test]
async fn uploads_that_will_not_do_leave_nothing() {
    let plain = v1::UploadBegin::default;
    let table: Vec<(&str, Messages)> = vec![
        ("INVALID_ARGUMENT", vec![]),
        ("INVALID_ARGUMENT", vec![chunk(b"x")]),
        ("INVALID_ARGUMENT", vec![begin(plain()), begin(plain())]),
        ("INVALID_ARGUMENT", vec![begin(plain()), chunk(b"no tar")]),
        (
            "INVALID_ARGUMENT",
            vec![begin(v1::UploadBegin {
                name: "../x".into(),
                ..plain()
            })],
        ),
        (
            "INVALID_ARGUMENT",
            vec![begin(v1::UploadBegin {
                digest: "12".into(),
                ..plain()
            })],
        ),
        (
            "TOO_LARGE",
            vec![begin(v1::UploadBegin {
                size_bytes: 11,
                ..plain()
            })],
        ),
        (
            "TOO_LARGE",
            vec![begin(plain()), chunk(b"123456"), chunk(b"78901")],
        ),
        (
            "DIGEST_MISMATCH",
            vec![
                begin(v1::UploadBegin {
                    digest: Digest::of(b"a").to_string(),
                    ..plain()
                }),
                chunk(b"b"),
            ],
        ),
        (
            "DIGEST_MISMATCH",
            vec![
                begin(v1::UploadBegin {
                    size_bytes: 2,
                    ..plain()
                }),
                chunk(b"b"),
            ],
        ),
        (
            "",
            vec![begin(plain()), chunk(b"b"), Err(Status::cancelled("gone"))],
        ),
    ];
    for (reason, messages) in table {
        let text = format!("{messages:?}");
        assert_eq!(refused(messages).await, reason, "{text}");
    }
}

#[tokio::test]
async fn a_caller_that_stops_sending_is_not_waited_for() {
    let mut silence = tokio_stream::pending();
    let status = next(&mut silence, Duration::from_millis(1))
        .await
        .expect_err("gives up");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[test]
fn a_large_upload_may_take_long_and_a_small_one_may_not() {
    assert_eq!(allowed(0), GRACE);
    assert_eq!(allowed(LEAST_RATE * 60), GRACE + Duration::from_secs(60));
    let largest = allowed(crate::config::DEFAULT_MAX_BUNDLE_SIZE);
    assert!(largest > Duration::from_secs(72 * 3600), "{largest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_keep_an_upload() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    let started = Instant::now();
    let first = tokio_stream::iter([begin(v1::UploadBegin::default())]);
    let trickle = tokio_stream::iter(0..).then(|_| async {
        // By hand: while the thread of the upload runs, time does not go on by itself.
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        chunk(b"x")
    });
    let messages = Box::pin(first.chain(trickle));
    let allowed = Allowed {
        size: 1 << 30,
        limits: Limits::default(),
    };
    let refused = receive(&blobs, allowed, messages).await;
    let status = refused.map(|upload| upload.bundle).expect_err("is refused");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("16 KiB/s"), "{status}");
    let took = started.elapsed();
    assert!(took >= GRACE && took < GRACE + IDLE, "{took:?}");
    assert_eq!(blobs.sweep_temporary().await.expect("sweeps"), 0);
}
