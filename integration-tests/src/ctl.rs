//! Runs `kernexctl` with a home of its own.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use parking_lot::Mutex;
use serde_json::Value;

mod lines;

pub use lines::Lines;

use crate::{
    binaries,
    server::{TestServer, clear_settings},
    wait::wait_for,
};

/// `kernexctl` with one home. Its outputs are pipes, not a terminal.
#[derive(Debug)]
pub struct Ctl<'a> {
    home: &'a Path,
}

/// Result of a command.
#[derive(Debug)]
pub struct CtlOutput {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    pub stderr: String,
}

impl<'a> Ctl<'a> {
    /// `kernexctl` with an empty home.
    #[must_use]
    pub fn at(home: &'a Path) -> Self {
        Self { home }
    }

    /// `kernexctl` with a context for this server.
    ///
    /// # Panics
    /// When the context cannot be added.
    #[must_use]
    pub fn on(server: &'a TestServer) -> Self {
        let ctl = Self::at(server.scratch());
        let data = server.data();
        let done = ctl.run(&[
            "context",
            "add",
            "test",
            "--server",
            &server.url(),
            "--ca",
            &data.join("ca.pem").to_string_lossy(),
            "--token-file",
            &data.join("admin.token").to_string_lossy(),
        ]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        ctl
    }

    /// A command that is ready to run.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("kernexctl"));
        clear_settings(&mut command);
        command
            .args(words)
            .current_dir(self.home)
            .env("KERNEXCTL_CONFIG", self.home.join("kernexctl.toml"))
            .env("HOME", self.home);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> CtlOutput {
        self.command(words)
            .output()
            .expect("kernexctl can be started")
            .into()
    }

    /// Starts a command that prints lines as they come, such as a watch.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn lines(&self, words: &[&str]) -> Lines {
        Lines::of(self.command(words))
    }

    /// Runs a command whose output nobody reads: the pipe is closed once it has started. Returns
    /// its exit code.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub async fn unread(&self, words: &[&str]) -> Option<i32> {
        let mut command = self.command(words);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kernexctl can be started");
        drop(child.stdout.take());
        let child = Mutex::new(child);
        let what = format!("kernexctl {words:?} to end");
        let status = wait_for(&what, || async {
            let ended = child.lock().try_wait().expect("it can be waited for");
            ended.ok_or_else(|| "it goes on".to_owned())
        });
        status.await.code()
    }

    /// Runs a command that has to succeed; returns its data.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn ok(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!(done.code, Some(0), "kernexctl {words:?}\n{}", done.stderr);
        done.stdout
    }

    /// Runs a command with `-o json` that has to succeed.
    ///
    /// # Panics
    /// When it does not, or says no JSON.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        let words = [words, &["-o", "json"]].concat();
        let text = self.ok(&words);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error} in {text}"))
    }

    /// Deploys with these words; returns the one deployment that is made.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn deploy(&self, words: &[&str]) -> Value {
        self.json(&[&["deploy"], words].concat())
    }
}

impl From<Output> for CtlOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
