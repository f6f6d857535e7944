//! A signal ends a verb with the exit code of shells, and nothing temporary is left.

#![cfg(unix)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::ioctl_fionread,
    process::{Pid, Signal, kill_process},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into()).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: Signal) {
    let id = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(id, signal).unwrap();
}

fn kernexctl(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernexctl"));
    command
        .env_clear()
        .env("KERNEXCTL_CONFIG", home.join("config.toml"))
        .current_dir(home)
        .stderr(Stdio::piped())
        .args(words);
    command
}

#[test]
fn packing_that_is_interrupted_leaves_no_archive() {
    for (zstd, signal, code) in [
        (false, Signal::INT, 130),
        (true, Signal::INT, 130),
        (false, Signal::TERM, 143),
    ] {
        let home = tempfile::tempdir().unwrap();
        let (app, out) = (home.path().join("app"), home.path().join("out"));
        fs::create_dir_all(&out).unwrap();
        fs::create_dir_all(&app).unwrap();
        fs::write(
            app.join("manifest.json"),
            r#"{"name": "app", "version": "1.0"}"#,
        )
        .unwrap();
        // Takes no room here, and seconds to pack.
        let large = File::create(app.join("large")).unwrap();
        large.set_len(16 << 30).unwrap();
        let mut words = vec!["bundle", "pack", "app", "-o", "out/app.tar.gz"];
        words.extend(zstd.then_some("--zstd"));
        let child = kernexctl(home.path(), &words).spawn().unwrap();
        until("an archive is begun", || !names(&out).is_empty());
        let sent = Instant::now();
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{signal:?}: {said}");
        assert!(said.contains("next: "), "{said}");
        assert_eq!(names(&out), [""; 0], "{signal:?}");
        assert!(sent.elapsed() < Duration::from_secs(10), "{signal:?}");
    }
}

/// A verb whose output nobody reads cannot let go, and ends all the same.
#[test]
fn a_verb_that_is_blocked_in_a_write_ends_too() {
    const FILLED: usize = 56 * 1024;
    let home = tempfile::tempdir().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Most of what a pipe holds: half of the words fit.
    writer.write_all(&[b' '; FILLED]).unwrap();
    let mut child = kernexctl(home.path(), &["explain"])
        .stdout(writer)
        .spawn()
        .unwrap();
    until("it writes", || {
        ioctl_fionread(&reader).unwrap() > FILLED as u64
    });
    assert!(child.try_wait().unwrap().is_none(), "it is blocked");
    send(&child, Signal::TERM);
    until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    drop(reader);
}
