//! A device does not download twice what it keeps: archives are kept, checked before each use, and
//! removed within a setting of disk.

use std::{fs, path::PathBuf};

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, TestAgent, TestServer, both_databases, wait::seen, wait_for,
};
use kernex_proto::v1::{AttemptState, Bundle};

/// The archives that a device keeps, by digest.
fn kept(agent: &TestAgent) -> Vec<String> {
    let folder = agent.state.join("bundles/app/archives");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn archive(agent: &TestAgent, bundle: &Bundle) -> PathBuf {
    let folder = agent.state.join("bundles/app/archives");
    folder.join(&bundle.digest)
}

const WAS_HERE: &str = "nothing was moved: the bundle was on the device";

both_databases![
    a_release_that_a_device_keeps_is_not_downloaded_again,
    an_archive_that_is_damaged_is_downloaded_again,
    a_device_without_room_for_archives_keeps_none,
];

async fn a_release_that_a_device_keeps_is_not_downloaded_again(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let mut agent = server.agent("edge-1").await;
    let (one, two) = (
        operator.push_script("app", "1.0", "true").await,
        operator.push_script("app", "2.0", "true").await,
    );
    for bundle in [&one, &two] {
        let target = operator.deploy_and_finish(bundle, "edge-1").await;
        assert_eq!(target.message, "", "it was downloaded: {target:?}");
    }
    // The server has the bytes no longer.
    for bundle in [&one, &two] {
        fs::remove_file(server.blob(&bundle.digest)).unwrap();
    }
    let plan = ctl.json(&["deploy", "app:2.0", "--device", "edge-1", "--plan"]);
    assert_eq!(plan[0]["verdict"], "already_active", "{plan}");
    assert_eq!(plan[0]["answer"]["has_copy"], true, "{plan}");
    let mut folders = Vec::new();
    for _ in 0..3 {
        let target = operator.deploy_and_finish(&two, "edge-1").await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
        assert_eq!(target.message, WAS_HERE);
        folders.push(agent.current("app").unwrap());
    }
    folders.dedup();
    assert_eq!(folders.len(), 3, "each had a fresh release: {folders:?}");
    // They are removed once the outcome is written.
    wait_for("one release of each digest", || async {
        let releases = agent.releases("app");
        seen(releases.len() == 2, releases)
    })
    .await;
    agent.kill();
    agent.start_again();
    operator.online("edge-1").await;
    assert_eq!(kept(&agent).len(), 2, "they outlive the agent");
    let target = operator.deploy_and_finish(&one, "edge-1").await;
    assert_eq!(
        (target.state(), target.message.as_str()),
        (AttemptState::Succeeded, WAS_HERE)
    );
    let shown = ctl.ok(&["deployment", "get", &target.deployment_id]);
    assert!(shown.contains("nothing was moved"), "{shown}");
}

async fn an_archive_that_is_damaged_is_downloaded_again(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&bundle, "edge-1").await;
    let whole = fs::read(archive(&agent, &bundle)).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for damage in [damaged, whole[..whole.len() / 2].to_vec(), Vec::new()] {
        fs::write(archive(&agent, &bundle), damage).unwrap();
        let target = operator.deploy_and_finish(&bundle, "edge-1").await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
        assert_eq!(target.message, "", "it was downloaded");
        assert_eq!(fs::read(archive(&agent, &bundle)).unwrap(), whole);
    }
}

async fn a_device_without_room_for_archives_keeps_none(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let options = AgentOptions::named("edge-1").env("KERNEX_AGENT_MAX_ARCHIVE_SPACE", "0");
    let agent = server.agent_with(options).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    for _ in 0..2 {
        let target = operator.deploy_and_finish(&bundle, "edge-1").await;
        assert_eq!(target.message, "", "it was downloaded: {target:?}");
        assert_eq!(kept(&agent), [""; 0]);
    }
}
