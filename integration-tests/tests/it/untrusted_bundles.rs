//! A device checks every bundle itself, also for what the server would have refused.

use kernex_integration_tests::{BundleBuilder, TestAgent, bundle::Kind, fake_server::FakeServer};
use kernex_proto::v1::{ArchiveLimits, AttemptState, FailureReason, Outcome};
use serde_json::json;
use tempfile::TempDir;

struct Device {
    server: FakeServer,
    agent: TestAgent,
    folder: TempDir,
}

async fn device() -> Device {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start().await;
    let agent = server.agent(folder.path());
    Device {
        server,
        agent,
        folder,
    }
}

impl Device {
    /// Deploys an archive that has to fail, and leave nothing.
    async fn refuses(&mut self, what: &str, archive: Vec<u8>) -> Outcome {
        let deploy = self.server.bundle("app", archive);
        let outcome = self.server.outcome_of(deploy).await;
        assert_eq!(outcome.state(), AttemptState::Failed, "{what}: {outcome:?}");
        assert_eq!(self.agent.current("app"), None, "{what}");
        assert!(
            self.agent.releases("app").is_empty(),
            "{what}: {:?}",
            self.agent.releases("app")
        );
        assert!(outcome.active.is_none(), "{what}: {outcome:?}");
        outcome
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_archive_is_not_unpacked_at_all() {
    let mut device = device().await;
    let witness = device.folder.path().join("outside");
    let good = || BundleBuilder::script("app", "1.0", "true").file("innocent", "x");
    let hostile = [
        (
            "absolute path",
            good().raw(witness.to_str().unwrap(), Kind::File, 0o644, "", b"x"),
        ),
        (
            "path upwards",
            good().raw("../../../../../outside", Kind::File, 0o644, "", b"x"),
        ),
        ("absolute link", good().symlink("link", "/etc/passwd")),
        ("link out", good().symlink("link", "../../../outside")),
        (
            "file through a link",
            good().symlink("d", "..").file("d/outside", "x"),
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
        ("the same file twice", good().file("innocent", "y")),
    ];
    for (what, builder) in hostile {
        let outcome = device.refuses(what, builder.gzip().await).await;
        assert_eq!(
            outcome.reason(),
            FailureReason::UnsafeArchive,
            "{what}: {outcome:?}"
        );
        assert!(!witness.exists(), "{what}");
    }
    let leftovers = device.agent.leftovers();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_follows_the_limits_that_come_with_a_deploy() {
    let mut device = device().await;
    let archive = BundleBuilder::script("app", "1.0", "true")
        .file("zeros", vec![0; 2 << 20])
        .gzip()
        .await;
    let mut deploy = device.server.bundle("app", archive);
    for (limits, what) in [
        (
            ArchiveLimits {
                max_unpacked_bytes: 1 << 20,
                ..ArchiveLimits::default()
            },
            "unpacked size",
        ),
        (
            ArchiveLimits {
                max_entries: 1,
                ..ArchiveLimits::default()
            },
            "number of entries",
        ),
    ] {
        deploy.limits = Some(limits);
        let outcome = device.server.outcome_of(deploy.clone()).await;
        assert_eq!(outcome.reason(), FailureReason::UnsafeArchive);
        assert!(outcome.message.contains(what), "{outcome:?}");
    }
    deploy.limits = Some(ArchiveLimits {
        max_unpacked_bytes: 4 << 20,
        ..ArchiveLimits::default()
    });
    let outcome = device.server.outcome_of(deploy).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_keeps_names_that_the_server_would_refuse() {
    let mut device = device().await;
    let manifest = json!({"version": "1.0", "deploy": {"scirpt": "true"}, "helth": {}});
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let deploy = device.server.bundle("app", archive);
    let outcome = device.server.outcome_of(deploy).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_missing_or_wrong_fails_with_field_and_reason() {
    let mut device = device().await;
    let none = BundleBuilder::empty().file("run.sh", "true").gzip().await;
    let outcome = device.refuses("none", none).await;
    assert_eq!(outcome.reason(), FailureReason::ManifestMissing);
    for (manifest, field) in [
        (json!({"name": "app"}), "version"),
        (
            json!({"version": "1.0", "deploy": {"timeout_seconds": "soon"}}),
            "timeout_seconds",
        ),
    ] {
        let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
        let outcome = device.refuses(field, archive).await;
        assert_eq!(outcome.reason(), FailureReason::ManifestInvalid);
        assert!(outcome.message.contains(field), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_fetched_once_more_and_then_reported() {
    let mut device = device().await;
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let mut flipped = archive.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;

    let deploy = device.server.bundle("app", archive.clone());
    device.server.serve(&deploy.digest, vec![flipped.clone()]);
    let outcome = device.server.outcome_of(deploy.clone()).await;
    assert_eq!(
        outcome.reason(),
        FailureReason::DigestMismatch,
        "{outcome:?}"
    );
    assert!(
        device.agent.leftovers().is_empty(),
        "{:?}",
        device.agent.leftovers()
    );

    device.server.serve(&deploy.digest, vec![flipped, archive]);
    let outcome = device.server.outcome_of(deploy).await;
    assert_eq!(
        outcome.state(),
        AttemptState::Succeeded,
        "the second try was good: {outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_larger_than_the_disk_is_not_even_fetched() {
    let mut device = device().await;
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let mut deploy = device.server.bundle("app", archive);
    deploy.size_bytes = 1 << 60;
    let outcome = device.server.outcome_of(deploy).await;
    assert_eq!(outcome.reason(), FailureReason::DiskFull, "{outcome:?}");
}
