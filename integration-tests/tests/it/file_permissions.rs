//! Permissions of files and folders, whatever the umask and whoever made them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kernex_integration_tests::{AgentOptions, BundleBuilder, Database, TestServer};

/// Rights of group and others, set-id and sticky bits.
const OTHERS: u32 = 0o7077;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A folder and everything below it that is no symbolic link.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(all_below(&entry.path()));
        } else if !kind.is_symlink() {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_readable_data_folder_is_closed_at_the_start() {
    let mut server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    operator.push_script("app", "1.0", "true").await;
    server.stop();
    let data = server.data();
    for path in all_below(&data) {
        let open = if path.is_dir() { 0o777 } else { 0o666 };
        fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
    }
    server.start_again().await;
    assert_eq!(mode(&data), 0o700);
    assert!(!server.blobs().is_empty());
    for path in all_below(&data) {
        let most = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            mode(&path) & !most,
            0,
            "{} {:o}",
            path.display(),
            mode(&path)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_can_read_only_the_current_release_whatever_the_umask() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let archive = BundleBuilder::script("app", "1.0", "true")
        .file("run.txt", "x")
        .gzip()
        .await;
    let bundle = operator.push(&archive).await;
    for umask in ["000", "022", "077"] {
        let name = format!("edge-{umask}");
        let with_umask = format!("umask {umask} && exec \"$@\"");
        let options = AgentOptions::named(&name).under(&["sh", "-c", &with_umask, "sh"]);
        let agent = server.agent_with(options).await;
        operator.deploy_and_finish(&bundle, &name).await;
        assert_eq!(mode(&agent.state) & !0o711, 0, "umask {umask}");
        for entry in fs::read_dir(&agent.state).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "bundles" {
                assert_eq!(
                    mode(&path) & OTHERS,
                    0,
                    "umask {umask}: {} {:o}",
                    path.display(),
                    mode(&path)
                );
            }
        }
        let release = agent.current("app").unwrap().canonicalize().unwrap();
        let file = release.join("run.txt");
        assert_eq!(mode(&file), 0o644, "umask {umask}");
        let state = agent.state.canonicalize().unwrap();
        let folders = file
            .ancestors()
            .skip(1)
            .take_while(|folder| **folder != state);
        for folder in folders {
            assert_eq!(mode(folder), 0o755, "umask {umask}: {}", folder.display());
        }
    }
}
