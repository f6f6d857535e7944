//! Removing releases in which something is mounted: mounts are never touched, and what stays is
//! reported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kernex_integration_tests::{
    Ctl, Database, Operator, TestAgent, TestServer, wait::seen, wait_for,
};
use kernex_proto::v1::{
    AttemptState, CancelDeploymentRequest, Device, FailureReason, HaltDeploymentRequest, Target,
};

/// Folders that scripts mount. Dropping this unmounts them before any folder is removed.
struct Mounts {
    folder: tempfile::TempDir,
    state: PathBuf,
}

impl Mounts {
    fn new(agent: &TestAgent) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let mounts = Self {
            folder,
            state: agent.state.clone(),
        };
        fs::write(mounts.data().join("kept"), "kept").unwrap();
        mounts
    }

    /// What the scripts mount.
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A script that mounts it, and then does something more.
    fn mounting(&self, at: &str, then: &str) -> String {
        let (data, begun) = (self.data(), self.begun());
        let (data, begun) = (data.display(), begun.display());
        format!("mkdir -p {at} && mount --bind {data} {at} && touch {begun}; {then}")
    }

    fn begun(&self) -> PathBuf {
        self.folder.path().join("begun")
    }

    async fn has_begun(&self) {
        wait_for("the script to have mounted", || async {
            seen(self.begun().exists(), ())
        })
        .await;
    }

    fn is_untouched(&self) {
        let kept = fs::read_to_string(self.data().join("kept"));
        assert_eq!(kept.unwrap_or_default(), "kept", "the mounted folder");
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let points = points.map(PathBuf::from);
        points
            .filter(|point| point.starts_with(&self.state) && *point != self.state)
            .collect()
    }

    fn unmount(&self) {
        for point in self.mounts().iter().rev() {
            let unmounted = Command::new("umount").arg("-l").arg(point).status();
            assert!(unmounted.is_ok_and(|status| status.success()), "{point:?}");
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for point in self.mounts().iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(point).status();
            }
        } else {
            self.unmount();
        }
    }
}

async fn deploy(operator: &Operator, version: &str, script: &str) -> Target {
    let bundle = operator.push_script("app", version, script).await;
    operator.deploy_and_finish(&bundle, "edge-1").await
}

async fn begin(operator: &Operator, version: &str, script: &str) -> String {
    let bundle = operator.push_script("app", version, script).await;
    operator.deploy(&bundle, &["edge-1"]).await
}

async fn left(operator: &Operator, count: u32) -> Device {
    let what = format!("to say that {count} could not be removed");
    let of = |device: &Device| device.leftovers.as_ref().map_or(0, |left| left.count);
    operator
        .device_where("edge-1", &what, |device| of(device) == count)
        .await
}

fn trash(state: &Path) -> usize {
    fs::read_dir(state.join("trash")).map_or(0, Iterator::count)
}

async fn a_failed_release_with_a_mount(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let mounts = Mounts::new(&agent);
    let script = mounts.mounting("rootfs/data", "exit 3");
    let target = deploy(&operator, "1.0", &script).await;
    assert_eq!(target.reason(), FailureReason::ScriptFailed, "{target:?}");
    mounts.is_untouched();
    let device = left(&operator, 1).await;
    let named = &device.leftovers.unwrap().named[0];
    assert!(
        named.path.starts_with("bundles/app/releases/1.0-"),
        "{named:?}"
    );
    assert_eq!(named.reason, "a file system is mounted at `rootfs/data`");
    let shown = Ctl::on(&server).ok(&["device", "get", "edge-1"]);
    assert!(shown.contains("Not removed:"), "{shown}");
    assert!(
        shown.contains(&named.path) && shown.contains(&named.reason),
        "{shown}"
    );
    let json = Ctl::on(&server).json(&["device", "get", "edge-1"]);
    assert_eq!(json["leftovers"]["count"], 1);
    assert_eq!(json["leftovers"]["named"][0]["path"], named.path);
    assert!(
        agent
            .state
            .join(&named.path)
            .join("rootfs/data/kept")
            .exists()
    );
    // The folder blocks no deployment, is not counted, and is never gone back to.
    for version in ["2.0", "3.0", "4.0", "5.0"] {
        let target = deploy(&operator, version, "true").await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    }
    assert_eq!(
        agent.releases("app").len(),
        4,
        "two beside the current one, and that"
    );
    mounts.unmount();
    deploy(&operator, "6.0", "true").await;
    assert_eq!(left(&operator, 0).await.leftovers, None);
    wait_for("it to be removed", || async {
        seen(agent.releases("app").len() == 3, agent.releases("app"))
    })
    .await;
    mounts.is_untouched();
    assert_eq!(trash(&agent.state), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "mounting needs root; fails instead with CI=true"
)]
async fn a_failed_release_with_a_mount_stays_and_is_reported_sqlite() {
    Box::pin(a_failed_release_with_a_mount(Database::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(kernex_disks, kernex_postgres)),
    ignore = "mounting needs root, and there has to be PostgreSQL; fails instead with CI=true"
)]
async fn a_failed_release_with_a_mount_stays_and_is_reported_postgres() {
    Box::pin(a_failed_release_with_a_mount(Database::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "mounting needs root; fails instead with CI=true"
)]
async fn old_releases_stay_until_their_mounts_are_gone() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let mounts = Mounts::new(&agent);
    for version in ["1", "2", "3", "4", "5"] {
        let target = deploy(&operator, version, &mounts.mounting("d", "true")).await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    }
    left(&operator, 2).await;
    mounts.is_untouched();
    assert_eq!(agent.releases("app").len(), 5);
    // A start looks again: folders that are still mounted stay, the others go.
    agent.kill();
    agent.start_again();
    left(&operator, 2).await;
    agent.stop();
    mounts.unmount();
    agent.start_again();
    left(&operator, 0).await;
    assert_eq!(agent.releases("app").len(), 3, "two beside the current one");
    mounts.is_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_disks),
    ignore = "mounting needs root; fails instead with CI=true"
)]
async fn a_release_with_a_mount_that_was_stopped_or_cut_off_is_left_alone() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let mounts = Mounts::new(&agent);
    let script = mounts.mounting("d", "exec sleep 600.5");

    let halted = begin(&operator, "1.0", &script).await;
    mounts.has_begun().await;
    let request = HaltDeploymentRequest {
        deployment_id: halted.clone(),
        ..Default::default()
    };
    operator.rollouts().halt_deployment(request).await.unwrap();
    let states = [AttemptState::Cancelled, AttemptState::Failed];
    operator.target_in(&halted, &states).await;
    left(&operator, 1).await;
    mounts.is_untouched();

    fs::remove_file(mounts.begun()).unwrap();
    let cancelled = begin(&operator, "2.0", &script).await;
    mounts.has_begun().await;
    let request = CancelDeploymentRequest {
        deployment_id: cancelled.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(request)
        .await
        .unwrap();
    operator.target_in(&cancelled, &states).await;
    left(&operator, 2).await;
    mounts.is_untouched();

    fs::remove_file(mounts.begun()).unwrap();
    let cut_off = begin(&operator, "3.0", &script).await;
    mounts.has_begun().await;
    agent.kill();
    agent.start_again();
    let target = operator.target_in(&cut_off, &states).await;
    assert_eq!(target.reason(), FailureReason::Interrupted, "{target:?}");
    left(&operator, 3).await;
    mounts.is_untouched();
    assert_eq!(mounts.mounts().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_a_crash_left_in_the_trash_is_removed_at_the_next_start() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    agent.stop();
    agent.start_again_with(Some(("KERNEX_CRASH_AT", "trash.move.after")));
    let id = begin(&operator, "1.0", "mkdir -p a/b && touch a/b/c; exit 3").await;
    wait_for("the agent to die in the middle of it", || {
        let ended = agent.has_ended();
        async move { seen(ended, ()) }
    })
    .await;
    assert_eq!(trash(&agent.state), 1);
    assert!(agent.releases("app").is_empty());
    agent.start_again();
    operator.finished(&id).await;
    let device = operator.online("edge-1").await;
    assert_eq!((trash(&agent.state), device.leftovers), (0, None));
}
