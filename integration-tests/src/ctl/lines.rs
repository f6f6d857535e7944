//! A `kernexctl` that keeps running, such as a watch: its output line by line.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use parking_lot::Mutex;

use crate::wait::wait_for;

/// A `kernexctl` that prints lines until it ends or is dropped.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    lines: Mutex<Receiver<String>>,
}

impl Lines {
    pub(super) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kernexctl can be started");
        let stdout = child.stdout.take().expect("it is a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines: Mutex::new(lines),
        }
    }

    /// Waits for the next line that is about this; those before it are gone.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn about(&self, what: &str) -> String {
        let mut before = Vec::new();
        loop {
            let line = self.next(what, &before).await;
            if line.contains(what) {
                return line;
            }
            before.push(line);
        }
    }

    async fn next(&self, what: &str, before: &[String]) -> String {
        wait_for(&format!("a line about {what}"), || async {
            let lines = self.lines.lock();
            lines.try_recv().map_err(|_| before.join("\n"))
        })
        .await
    }

    /// Waits for its end: every line that is left, and the exit code.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn to_the_end(mut self) -> (Vec<String>, Option<i32>) {
        let lines = self.lines.get_mut();
        // The sender is gone with the last line.
        let lines = lines.iter().collect();
        let status = self.child.wait().expect("it can be waited for");
        (lines, status.code())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
