//! An enrolled device whose key is gone: the program says so wherever it is asked, and makes no key
//! that its server would not know.

use std::{fs, path::Path, process::Output, time::Duration};

use serde_json::Value;
use tokio::process::Command;

use crate::bench::Bench;

/// How a command ended that has to end by itself.
async fn ended(verb: &[&str], state_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernex-agent"));
    command
        .args(verb)
        .arg("--state-dir")
        .arg(state_dir)
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(30), command.output());
    ended.await.expect("it goes on and on").unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

#[tokio::test]
async fn a_device_that_lost_its_key_says_so_and_makes_no_other() {
    let (mut bench, session) = Bench::connected().await;
    bench.stop().await;
    drop(session);
    let state_dir = bench.state_dir();
    let aside = bench.near("device.key.aside");
    fs::rename(state_dir.join("device.key"), &aside).unwrap();
    let support = bench.near("support.json");
    let support_bundle = ["support-bundle", "--output", support.to_str().unwrap()];

    for (verb, code) in [
        (&["run"][..], 1),
        (&["status"], 1),
        (&["doctor"], 1),
        (&support_bundle, 0),
    ] {
        let output = ended(verb, &state_dir).await;
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        let said = match verb[0] {
            "support-bundle" => fs::read_to_string(&support).unwrap(),
            _ => said(&output),
        };
        assert!(said.contains("the key of this device is gone"), "{said}");
        if verb[0] != "status" {
            assert!(said.contains("--new-key"), "{said}");
            assert!(said.contains("--replace"), "{said}");
        }
        assert!(!said.contains("making a device key"), "{said}");
        assert!(!state_dir.join("device.key").exists(), "{verb:?}");
    }
    let found: Value = serde_json::from_str(&fs::read_to_string(&support).unwrap()).unwrap();
    assert!(found["identity"]["key"]["error"].is_string(), "{found}");
    assert!(found["status"]["identity_fault"].is_string(), "{found}");

    // Put back, it is the device that it was.
    fs::rename(&aside, state_dir.join("device.key")).unwrap();
    bench.start().await;
}
