//! Bundles on a device whose disk is small: a bundle that does not fit is refused before it is
//! unpacked.

use std::path::Path;

use kernex_integration_tests::{AgentOptions, BundleBuilder, fake_server::FakeServer};
use kernex_proto::v1::{
    AttemptState, Deploy, FailureReason, Plan, Planned, command,
    device_session_request::Message as Up,
};
use serde_json::json;

/// Options for an agent whose state folder is a small file system of its own, seen by the agent
/// alone: no test may fill the machine's disk.
fn on_a_small_disk(state: &Path) -> AgentOptions {
    let mount = "cp -a $S $S.copy && mount -t tmpfs -o size=24m none $S && \
                 cp -a $S.copy/. $S && exec \"$@\"";
    AgentOptions::named("edge-1")
        .env("S", state.to_string_lossy())
        .under(&["unshare", "-rm", "sh", "-c", mount, "sh"])
}

/// A bundle with a small archive and a large release, but no archive bomb.
async fn inflating(version: &str, megabytes: u32) -> Vec<u8> {
    let content: Vec<u8> = (0..megabytes * 1024)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes().repeat(256))
        .collect();
    BundleBuilder::script("app", version, "true")
        .file("large", content)
        .gzip()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_unpacks_to_more_than_the_disk_is_not_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let state = folder.path().join("agents/edge-1");
    let agent = server.agent_with(folder.path(), on_a_small_disk(&state));
    let deploy = server.bundle("app", inflating("1.0", 40).await);
    let outcome = server.outcome_of(deploy).await;
    assert_eq!(outcome.reason(), FailureReason::DiskFull, "{outcome:?}");
    // The disk was too small by count; it did not fill up.
    let counted = "not enough disk: ";
    assert!(outcome.message.starts_with(counted), "{outcome:?}");
    server.heartbeat().await;

    let inside = format!(
        "/proc/{}/root{}/bundles",
        agent.process().pid(),
        state.display()
    );
    let kept: Vec<_> = walk(Path::new(&inside));
    assert!(kept.is_empty(), "partial files are gone: {kept:?}");
    let small = BundleBuilder::script("app", "1.1", "true").gzip().await;
    let outcome = server.outcome_of(server.bundle("app", small)).await;
    assert_eq!(
        outcome.state(),
        AttemptState::Succeeded,
        "there is room again: {outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_releases_make_room_for_a_bundle_that_needs_it_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let state = folder.path().join("agents/edge-1");
    let _agent = server.agent_with(folder.path(), on_a_small_disk(&state));
    // Two of them are kept and fit beside each other; a third one does not.
    for version in ["1.0", "2.0", "3.0"] {
        let deploy = server.bundle("app", inflating(version, 8).await);
        let outcome = server.outcome_of(deploy).await;
        assert_eq!(
            outcome.state(),
            AttemptState::Succeeded,
            "{version}: {outcome:?}"
        );
    }
}

async fn planned(server: &mut FakeServer, deploy: &Deploy, unpacked_bytes: u64) -> Planned {
    let plan = Plan {
        deploy: Some(deploy.clone()),
        plan_id: "plan".into(),
        manifest_json: json!({"name": "app", "version": "1.0"}).to_string(),
        unpacked_bytes,
        entries: 0,
    };
    server.command(Some(command::Action::Plan(plan))).await;
    let is_planned = |message| match message {
        Up::Planned(planned) => Some(planned),
        _ => None,
    };
    server.next_where("a plan", is_planned).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_and_a_deploy_agree_on_whether_the_disk_is_large_enough() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let state = folder.path().join("agents/edge-1");
    let _agent = server.agent_with(folder.path(), on_a_small_disk(&state));
    for (megabytes, fits) in [(40, false), (12, true)] {
        let unpacked = u64::from(megabytes) << 20;
        let archive = inflating("1.0", megabytes).await;
        let together = archive.len() as u64 + unpacked;
        let deploy = server.bundle("app", archive);
        let plan = planned(&mut server, &deploy, unpacked).await;
        assert!(plan.disk_needed_bytes > together, "{plan:?}");
        let obstacles = plan.obstacles.iter().map(|obstacle| obstacle.reason());
        let obstacles: Vec<_> = obstacles.collect();
        let outcome = server.outcome_of(deploy).await;
        if fits {
            assert_eq!(obstacles, [], "{plan:?}");
            assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
        } else {
            assert_eq!(obstacles, [FailureReason::DiskFull], "{plan:?}");
            assert_eq!(outcome.reason(), FailureReason::DiskFull, "{outcome:?}");
        }
    }
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
