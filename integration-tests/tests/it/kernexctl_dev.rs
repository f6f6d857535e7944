//! `kernexctl dev`: a server and agents in one command.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use kernex_integration_tests::{Ctl, process::Process, wait::seen, wait_for};
use rustix::process::Signal;

#[test]
fn dev_once_deploys_the_example_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut dev = Ctl::at(home.path()).command(&["dev", "--once", "--devices", "2"]);
    let output = dev.env("TMPDIR", &temporary).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("succeeded"), "{said}");
    let left: Vec<_> = fs::read_dir(&temporary)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let left: Vec<_> = fs::read_dir(home.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert_eq!(left, [temporary], "no configuration, no data");
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_stays_up_until_it_is_interrupted() {
    let home = tempfile::tempdir().unwrap();
    let ctl = Ctl::at(home.path());
    let data = home.path().join("fleet");
    let dev = ctl.command(&[
        "dev",
        "--devices",
        "1",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    let mut dev = Process::spawn("kernexctl dev", dev, &home.path().join("dev.log"));
    wait_for(
        "the dev context to work and the device to run the example",
        || async {
            let devices = ctl.run(&["--context", "dev", "device", "list", "-o", "json"]);
            let state = format!("{}{}", devices.stdout, devices.stderr);
            seen(devices.code == Some(0) && state.contains("hello"), state)
        },
    )
    .await;
    dev.signal(Signal::INT);
    let ended = tokio::task::block_in_place(|| dev.wait_within(Duration::from_secs(30)));
    assert!(ended.expect("it ends").success(), "{}", dev.tail());
    assert!(data.exists(), "what was asked to be kept is kept");
    let contexts = ctl.run(&["context", "list", "-o", "name"]);
    assert_eq!(contexts.stdout, "", "no context of a port that is closed");
}

/// A bind mount that ends with the test.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(kernex_disks),
    ignore = "mounting needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
)]
async fn dev_keeps_its_folder_while_something_is_mounted_in_it() {
    let home = tempfile::tempdir().unwrap();
    let (temporary, outside) = (home.path().join("tmp"), home.path().join("outside"));
    for folder in [&temporary, &outside] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(outside.join("data"), "precious").unwrap();
    let ctl = Ctl::at(home.path());
    let mut dev = ctl.command(&["dev", "--devices", "1"]);
    dev.env("TMPDIR", &temporary);
    let mut dev = Process::spawn("kernexctl dev", dev, &home.path().join("dev.log"));
    wait_for("the device to run the example", || async {
        let devices = ctl.run(&["--context", "dev", "device", "list", "-o", "json"]);
        let state = format!("{}{}", devices.stdout, devices.stderr);
        seen(devices.code == Some(0) && state.contains("hello"), state)
    })
    .await;
    let folder = fs::read_dir(&temporary).unwrap().flatten().next().unwrap();
    let at = folder.path().join("mounted here");
    fs::create_dir(&at).unwrap();
    let mut mount = Command::new("mount");
    let mounted = mount.arg("--bind").args([&outside, &at]).status().unwrap();
    assert!(mounted.success());
    let mount = Mount(at.clone());
    dev.signal(Signal::INT);
    let ended = tokio::task::block_in_place(|| dev.wait_within(Duration::from_secs(60)));
    assert!(ended.expect("it ends").success(), "{}", dev.tail());
    let said = dev.log();
    assert!(
        said.contains("a file system is mounted at") && said.contains("umount"),
        "{said}"
    );
    drop(mount);
    assert!(at.is_dir(), "the folder stays as it was");
    let data = fs::read_to_string(outside.join("data")).unwrap();
    assert_eq!(data, "precious");
}
