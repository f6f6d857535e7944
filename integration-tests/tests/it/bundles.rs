//! Bundles on the server: uploads, refused archives, and deletion.

use std::time::Duration;

use bytes::Bytes;
use kernex_integration_tests::{
    BundleBuilder, Database, ServerOptions, TestServer, both_databases,
    bundle::{Kind, noisy, write_large},
    refusal::reason,
    wait::seen,
    wait_for,
};
use kernex_proto::{
    error::Reason,
    v1::{AttemptState, CreateOperatorTokenRequest, DeleteBundleRequest, Role, UploadBegin},
};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::Code;

both_databases![
    the_same_bytes_again_are_the_same_bundle,
    an_upload_can_name_the_bundle,
    an_aborted_upload_leaves_nothing,
    an_upload_that_does_not_match_its_header_is_refused,
    unsafe_archives_are_refused_at_upload,
    an_invalid_manifest_is_refused_with_field_and_reason,
    ordinary_archives_of_every_format_are_accepted,
    a_bundle_in_use_is_not_deleted,
    roles_limit_what_a_token_may_do,
    an_upload_of_two_hundred_mebibytes_needs_little_memory,
];

async fn the_same_bytes_again_are_the_same_bundle(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let first = operator.push(&archive).await;
    assert_eq!(operator.push(&archive).await, first);
    assert_eq!(server.blobs().len(), 1);
    let other = BundleBuilder::script("app", "1.0", "false").gzip().await;
    let refused = operator.try_push(&other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert_eq!(operator.bundle_names().await, ["app:1.0"]);
    assert_eq!(server.blobs().len(), 1, "the refused bytes are gone");
}

async fn an_upload_can_name_the_bundle(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let archive = BundleBuilder::with_manifest(&json!({"version": "1.0"}))
        .gzip()
        .await;
    assert_eq!(operator.push(&archive).await.name, "default");
    let archive = BundleBuilder::script("inside", "2.0", "true").gzip().await;
    let begin = UploadBegin {
        name: "outside".into(),
        ..Default::default()
    };
    let bundle = operator.try_push_as(&archive, begin).await.unwrap();
    assert_eq!(
        (bundle.name.as_str(), bundle.version.as_str()),
        ("outside", "2.0")
    );
    let begin = UploadBegin {
        name: "../up".into(),
        ..Default::default()
    };
    let refused = operator.try_push_as(&archive, begin).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn an_aborted_upload_leaves_nothing(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let archive = noisy("app", "1.0", 2, "true").await;
    let half = Bytes::copy_from_slice(&archive[..archive.len() / 2]);
    let begun = tokio_stream::once(half).chain(tokio_stream::pending());
    let upload = operator.try_push_stream(UploadBegin::default(), begun);
    let cut = tokio::time::timeout(Duration::from_millis(700), upload).await;
    assert!(cut.is_err(), "the upload was still going on");
    wait_for("the half upload to be swept", || async {
        let files = server.blobs();
        seen(files.is_empty(), files)
    })
    .await;
    assert!(operator.bundle_names().await.is_empty());
    operator.push(&archive).await;
}

async fn an_upload_that_does_not_match_its_header_is_refused(database: Database) {
    let options = ServerOptions::default().env("KERNEX_MAX_BUNDLE_SIZE", "1MiB");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let begin = UploadBegin {
        digest: "0".repeat(64),
        ..Default::default()
    };
    let refused = operator.try_push_as(&archive, begin).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::InvalidArgument, Some(Reason::DigestMismatch))
    );

    let large = noisy("app", "2.0", 2, "true").await;
    let refused = operator.try_push(&large).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::ResourceExhausted, Some(Reason::TooLarge))
    );
    let begin = UploadBegin {
        size_bytes: 2 << 20,
        ..Default::default()
    };
    let refused = operator
        .try_push_stream(begin, tokio_stream::pending())
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        Code::ResourceExhausted,
        "refused before a byte was sent"
    );
    assert!(server.blobs().is_empty(), "{:?}", server.blobs());
    assert!(operator.bundle_names().await.is_empty());
}

async fn unsafe_archives_are_refused_at_upload(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let good = || BundleBuilder::script("app", "1.0", "true");
    let hostile = [
        (
            "absolute path",
            good().raw("/etc/evil", Kind::File, 0o644, "", b"x"),
        ),
        (
            "path upwards",
            good().raw("a/../../evil", Kind::File, 0o644, "", b"x"),
        ),
        ("absolute link", good().symlink("link", "/etc/passwd")),
        ("link out", good().symlink("link", "../../outside")),
        (
            "hard link to nothing",
            good().raw("link", Kind::HardLink, 0o644, "nowhere", b""),
        ),
        (
            "hard link out",
            good().raw("link", Kind::HardLink, 0o644, "/etc/passwd", b""),
        ),
        (
            "device node",
            good().raw("null", Kind::Device, 0o666, "", b""),
        ),
        ("named pipe", good().raw("pipe", Kind::Pipe, 0o666, "", b"")),
        ("set-id bit", good().file_with_mode("su", 0o4755, "x")),
        ("the same file twice", good().file("a", "1").file("a", "2")),
    ];
    for (what, builder) in hostile {
        let refused = operator
            .try_push(&builder.gzip().await)
            .await
            .expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert_eq!(
            reason(&refused),
            Some(Reason::UnsafeArchive),
            "{what}: {refused}"
        );
    }
    assert!(server.blobs().is_empty(), "{:?}", server.blobs());
}

async fn an_invalid_manifest_is_refused_with_field_and_reason(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let none = BundleBuilder::empty().file("run.sh", "true").gzip().await;
    let refused = operator.try_push(&none).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::InvalidArgument, Some(Reason::ManifestMissing))
    );
    for (manifest, field) in [
        (json!({"name": "app"}), "version"),
        (json!({"version": "1.0", "name": "no/slash"}), "name"),
        (
            json!({"version": "1.0", "deploy": {"timeout_seconds": "soon"}}),
            "timeout_seconds",
        ),
        (json!({"version": 1}), "version"),
    ] {
        let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
        let refused = operator.try_push(&archive).await.unwrap_err();
        assert_eq!(
            reason(&refused),
            Some(Reason::ManifestInvalid),
            "{manifest}: {refused}"
        );
        assert!(refused.message().contains(field), "{manifest}: {refused}");
    }
    let garbage = operator
        .try_push(b"this is not an archive at all")
        .await
        .unwrap_err();
    assert_eq!(garbage.code(), Code::InvalidArgument);
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let torn = operator
        .try_push(&archive[..archive.len() - 20])
        .await
        .unwrap_err();
    assert_eq!(torn.code(), Code::InvalidArgument);
    assert!(operator.bundle_names().await.is_empty());
}

async fn ordinary_archives_of_every_format_are_accepted(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let manifest = |version: &str| json!({"version": version, "x-unknown": [1, 2]}).to_string();
    let flat = BundleBuilder::empty()
        .file("manifest.json", manifest("1"))
        .file("a", "flat");
    let below = BundleBuilder::empty()
        .below("app-2")
        .file("manifest.json", manifest("2"))
        .file("a", "below");
    let late = BundleBuilder::empty()
        .file("a", "late")
        .file("manifest.json", manifest("3"));
    let zstd = BundleBuilder::empty()
        .file("manifest.json", manifest("4"))
        .file("a", "zstd");
    for archive in [
        flat.gzip().await,
        below.gzip().await,
        late.gzip().await,
        zstd.zstd().await,
    ] {
        let bundle = operator.push(&archive).await;
        let target = operator.deploy_and_finish(&bundle, "edge-1").await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    }
    let versions = operator.device("edge-1").await.releases;
    assert_eq!(versions[0].version, "4");
}

async fn a_bundle_in_use_is_not_deleted(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let needed = operator.push_script("app", "1.0", "true").await;
    let spare = operator.push_script("spare", "1.0", "true").await;
    operator.deploy_and_finish(&needed, "edge-1").await;
    let delete = |bundle: &str| {
        let request = DeleteBundleRequest {
            bundle: bundle.to_owned(),
            ..Default::default()
        };
        let mut client = operator.bundles();
        async move { client.delete_bundle(request).await }
    };
    let refused = delete("app:1.0").await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::FailedPrecondition, Some(Reason::InUse))
    );
    delete(&spare.digest).await.unwrap();
    assert_eq!(operator.bundle_names().await, ["app:1.0"]);
    assert_eq!(server.blobs().len(), 1);
}

async fn roles_limit_what_a_token_may_do(database: Database) {
    let server = TestServer::start(database).await;
    let admin = server.operator();
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let make = CreateOperatorTokenRequest {
        name: "looker".into(),
        role: Role::Viewer.into(),
        ..Default::default()
    };
    let text = admin
        .access()
        .create_operator_token(make)
        .await
        .unwrap()
        .into_inner()
        .text;
    let viewer = admin.with_token(&text);
    assert_eq!(viewer.who_am_i().await.unwrap().name, "looker");
    assert!(viewer.bundle_names().await.is_empty(), "reading is allowed");
    let refused = viewer.try_push(&archive).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for stranger in [admin.anonymous(), admin.with_token("kxo1.wrong")] {
        let refused = stranger.try_push(&archive).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(
            stranger.who_am_i().await.unwrap_err().code(),
            Code::Unauthenticated
        );
    }
}

async fn an_upload_of_two_hundred_mebibytes_needs_little_memory(database: Database) {
    const ALLOWED: u64 = 64 << 20;
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let small = BundleBuilder::script("app", "0.1", "true").gzip().await;
    operator
        .deploy_and_finish(&operator.push(&small).await, "edge-1")
        .await;
    let before = (
        server.process().peak_memory(),
        agent.process().peak_memory(),
    );

    let path = server.scratch().join("large.tar.gz");
    write_large(
        &path,
        "app",
        200,
        "test $(wc -c < payload.bin) -eq 209715200",
    )
    .await
    .unwrap();
    let file = tokio::fs::File::open(&path).await.unwrap();
    let chunks = tokio_util::io::ReaderStream::with_capacity(file, kernex_proto::CHUNK_SIZE);
    let chunks = chunks.map(|chunk| chunk.expect("the file can be read"));
    let bundle = operator
        .try_push_stream(UploadBegin::default(), chunks)
        .await
        .unwrap();
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    operator
        .finished_within(&id, Duration::from_secs(300))
        .await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");

    let after = (
        server.process().peak_memory(),
        agent.process().peak_memory(),
    );
    assert!(
        after.0 - before.0 < ALLOWED,
        "the server grew from {} to {} bytes",
        before.0,
        after.0
    );
    assert!(
        after.1 - before.1 < ALLOWED,
        "the agent grew from {} to {} bytes",
        before.1,
        after.1
    );
}
