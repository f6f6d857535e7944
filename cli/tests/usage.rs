//! What `kernexctl` does before it connects: usage, exit codes, stdout and stderr.

use assert_cmd::Command;

/// `kernexctl` with a home and a configuration of its own.
fn kernexctl(home: &tempfile::TempDir) -> Command {
    let mut command = Command::cargo_bin("kernexctl").unwrap();
    command
        .env_clear()
        .env("KERNEXCTL_CONFIG", home.path().join("config.toml"))
        .current_dir(home.path())
        .timeout(std::time::Duration::from_secs(60));
    command
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_exits_2() {
    let home = home();
    for line in [
        "",
        "nonsense",
        "deploy hello:1.0",
        "context add x --server https://h",
        "device label x",
        "deployment cancel x",
        "device list",
    ] {
        let output = kernexctl(&home)
            .args(line.split_whitespace())
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{line}: {}",
            text(&output.stderr)
        );
        assert_eq!(text(&output.stdout), "", "{line}");
        assert!(!output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn destructive_commands_need_a_yes_without_a_terminal() {
    let home = home();
    let output = kernexctl(&home)
        .args(["device", "delete", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--yes"));
}

#[test]
fn a_server_that_is_not_there_exits_7_and_says_what_to_do() {
    let home = home();
    let output = kernexctl(&home)
        .env("KERNEX_SERVER", "http://127.0.0.1:1")
        .env("KERNEX_TOKEN", "t")
        .args(["device", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(
        text(&output.stderr).contains("next: "),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn contexts_are_added_chosen_and_listed_without_their_tokens() {
    let home = home();
    let ca = home.path().join("ca.pem");
    std::fs::write(
        &ca,
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    std::fs::write(home.path().join("token"), "kxo1.secret\n").unwrap();
    for name in ["a", "b"] {
        kernexctl(&home)
            .args([
                "context",
                "add",
                name,
                "--server",
                "https://h:7443",
                "--ca",
                "ca.pem",
                "--token-file",
                "token",
            ])
            .assert()
            .success();
    }
    kernexctl(&home)
        .args(["context", "use", "b"])
        .assert()
        .success();
    kernexctl(&home)
        .args(["context", "use", "c"])
        .assert()
        .code(5);
    let output = kernexctl(&home)
        .args(["context", "list", "-o", "json"])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[1]["name"], "b");
    assert_eq!(json[1]["current"], true);
    assert!(!text(&output.stdout).contains("secret"));
    let output = kernexctl(&home).args(["context", "list"]).output().unwrap();
    assert_eq!(
        text(&output.stdout),
        "CURRENT  NAME  SERVER\n-        a     https://h:7443\n*        b     https://h:7443\n"
    );
}

#[test]
fn a_folder_is_packed_and_its_file_named_on_stdout() {
    let home = home();
    kernexctl(&home)
        .args(["bundle", "init", "app"])
        .assert()
        .success();
    let output = kernexctl(&home)
        .args(["bundle", "pack", "app"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "app-0.1.0.tar.gz\n");
    let first = std::fs::read(home.path().join("app-0.1.0.tar.gz")).unwrap();
    kernexctl(&home)
        .args(["bundle", "pack", "app", "-o", "other.tar.gz"])
        .assert()
        .success();
    assert_eq!(
        std::fs::read(home.path().join("other.tar.gz")).unwrap(),
        first
    );
    let output = kernexctl(&home)
        .args(["bundle", "pack", "missing"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("bundle init"));
}

#[test]
fn completion_is_printed_and_a_closed_pipe_is_fine() {
    let home = home();
    let output = kernexctl(&home)
        .args(["completion", "bash"])
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("_kernexctl"));

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kernexctl"))
        .args(["completion", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
