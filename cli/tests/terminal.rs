//! What people see on a terminal of 80 columns. `script`, of util-linux, makes the terminal.

#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

const COLUMNS: usize = 80;

/// Everything that a command of `kernexctl` writes to a terminal.
fn shown(home: &Path, line: &str) -> String {
    let program = env!("CARGO_BIN_EXE_kernexctl");
    let line = format!("stty cols {COLUMNS} rows 24; '{program}' {line}");
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .current_dir(home)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .env("KERNEXCTL_CONFIG", home.join("config.toml"))
        .stdin(Stdio::null())
        .output()
        .expect("`script` of util-linux is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}");
    text
}

/// What was on the screen, line by line, one picture after the other; without colours.
fn pictures(shown: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut letters = shown.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            // As in `ESC [ 2 K`: up to the letter that names the order.
            let is_order = |c: &char| !c.is_ascii_alphabetic();
            letters.by_ref().take_while(is_order).for_each(drop);
        } else {
            plain.push(letter);
        }
    }
    let lines = plain.split(['\r', '\n']).map(str::to_owned);
    lines.filter(|line| !line.trim().is_empty()).collect()
}

/// No line is broken by the terminal.
fn fits(pictures: &[String]) {
    for line in pictures {
        assert!(line.chars().count() <= COLUMNS, "{line}");
    }
}

/// Bytes that no encoder makes smaller, so that packing takes a moment.
fn noise(count: u32) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..count / 4).flat_map(|_| next()).collect()
}

#[test]
fn packing_shows_how_far_it_is_within_the_width() {
    let home = tempfile::tempdir().unwrap();
    shown(home.path(), "bundle init app");
    fs::write(home.path().join("app/noise"), noise(48 << 20)).unwrap();
    let pictures = pictures(&shown(home.path(), "bundle pack app"));
    let bars: Vec<String> = pictures
        .iter()
        .filter(|line| line.starts_with("packing ["))
        .cloned()
        .collect();
    assert!(!bars.is_empty(), "{pictures:?}");
    assert!(
        bars.iter().all(|bar| bar.contains(" of 48.00 MiB")),
        "{bars:?}"
    );
    fits(&bars);
}

#[test]
fn a_table_is_cut_to_the_width_and_its_names_are_not() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "kxo1.secret").unwrap();
    let host = "long.".repeat(20);
    for name in ["short", "a-rather-long-name-of-a-context"] {
        let add = format!("context add {name} --server http://127.0.0.1:1 --token-file token");
        shown(home.path(), &add);
    }
    let file = home.path().join("config.toml");
    let contexts = fs::read_to_string(&file).unwrap();
    let contexts = contexts.replace("http://127.0.0.1:1", &format!("https://{host}example"));
    fs::write(&file, contexts).unwrap();
    let pictures = pictures(&shown(home.path(), "context list"));
    fits(&pictures);
    let text = pictures.join("\n");
    assert!(text.contains("a-rather-long-name-of-a-context"), "{text}");
    assert!(text.contains('…'), "{text}");
}

#[test]
fn help_fits_the_width() {
    let home = tempfile::tempdir().unwrap();
    for line in [
        "--help",
        "context add --help",
        "deploy --help",
        "device list --help",
        "deployment get --help",
    ] {
        let mut lines = pictures(&shown(home.path(), line));
        // How a command is called is not wrapped, so that it can be copied.
        lines.retain(|line| !line.starts_with("Usage:"));
        fits(&lines);
    }
}
