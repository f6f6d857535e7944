//! `kernex-agent doctor`: what keeps this machine from its control plane. It opens no session, so a
//! running agent is not disturbed.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use kernex_proto::{
    connect::doctor::{Finding, examine},
    trust::Dates,
};

use serde_json::{Value, json};

use crate::{clock, config::Config, host::disk_space, identity::Identity, status};

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(5);
/// With less than this the agent cannot even end what it has begun.
const LEAST_FREE: u64 = 16 * 1024 * 1024;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    what: &'static str,
    found: String,
    /// What to do; none when all is well.
    next: Option<String>,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            found: found.into(),
            next: None,
        }
    }

    fn bad(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what,
            found: found.into(),
            next: Some(next.into()),
        }
    }

    pub(crate) const fn is_good(&self) -> bool {
        self.next.is_none()
    }

    /// As in the JSON of `kernexctl doctor`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "check": self.what,
            "ok": self.is_good(),
            "found": self.found,
            "next": self.next.as_deref().unwrap_or_default(),
        })
    }

    /// As a line for people, with the next step below it.
    pub(crate) fn text(&self) -> String {
        match &self.next {
            None => format!("ok      {:<12}{}", self.what, self.found),
            Some(next) => format!(
                "FAILED  {:<12}{}\n        {:<12}next: {next}",
                self.what, self.found, ""
            ),
        }
    }
}

impl From<Finding> for Check {
    fn from(finding: Finding) -> Self {
        Self {
            what: finding.step.as_str(),
            found: finding.text,
            next: finding.next,
        }
    }
}

/// Every check, in the order in which faults have to be mended.
pub(crate) async fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![folder(config), disk(config)];
    let identity = match Identity::load(&config.state_dir) {
        Ok(identity) => identity,
        Err(error) => {
            checks.push(Check::bad(
                "identity",
                error.to_string(),
                "Enrol this machine again with a new token.",
            ));
            None
        }
    };
    checks.push(match &identity {
        Some(identity) => Check::good("identity", format!("enrolled as {}", identity.name)),
        None => Check::bad(
            "identity",
            "this machine is not enrolled",
            "Run `kernex-agent enroll --server URL --token-file FILE`; a token comes from `kernexctl enrollment create`.",
        ),
    });
    let enrolled_at = identity.as_ref().map(|identity| identity.server.clone());
    let Some(server) = config.servers.first().cloned().or(enrolled_at) else {
        checks.push(Check::bad(
            "address",
            "the address of the control plane is not known",
            "Give it with `--server https://HOST:PORT`.",
        ));
        return checks;
    };
    let ca = identity.as_ref().map(|identity| identity.ca_pem.as_str());
    let ca = ca.filter(|pem| !pem.is_empty());
    let now = clock::wall().seconds;
    let findings = Box::pin(examine(&server, ca, Dates::Ignored, now, LIMIT)).await;
    let not_enrolled = identity.is_none();
    // Without an enrolment no CA is known, which was said already.
    checks.extend(
        findings
            .into_iter()
            .map(Check::from)
            .filter(|check| !(not_enrolled && check.what == "certificate")),
    );
    checks.push(session(config));
    checks
}

fn folder(config: &Config) -> Check {
    let dir = &config.state_dir;
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(metadata) if !metadata.is_dir() => Check::bad(
            "state folder",
            format!("{shown} is no folder"),
            "Give another one with `--state-dir`.",
        ),
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => Check::bad(
            "state folder",
            format!("{shown} belongs to another user"),
            "Run the agent and this command as its owner, as a rule root.",
        ),
        Ok(_) => Check::good("state folder", shown.to_string()),
        Err(error) => Check::bad(
            "state folder",
            format!("cannot look at {shown}: {error}"),
            "Give the folder of the agent with `--state-dir`, and run this as its owner.",
        ),
    }
}

fn disk(config: &Config) -> Check {
    match disk_space(&config.state_dir) {
        Ok(space) if space.free < LEAST_FREE => Check::bad(
            "disk",
            format!(
                "only {} KiB are free in the state folder",
                space.free / 1024
            ),
            "Free some space there.",
        ),
        Ok(space) => Check::good(
            "disk",
            format!("{} MiB are free", space.free / (1024 * 1024)),
        ),
        Err(error) => Check::bad(
            "disk",
            format!("cannot be asked: {error}"),
            "Check the mount.",
        ),
    }
}

fn session(config: &Config) -> Check {
    match status::look(config) {
        Ok(status) if status.is_well() => Check::good("session", "the agent runs and has one"),
        Ok(status) => Check::bad(
            "session",
            status
                .lines()
                .into_iter()
                .find(|line| line.starts_with("Session:") || line.starts_with("Agent:   not"))
                .unwrap_or_default(),
            "See the log of the agent: `journalctl -u kernex-agent`.",
        ),
        Err(error) => Check::bad("session", error.to_string(), "Enrol this machine again."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fresh_machine_is_told_to_enrol_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let checks = checks(&Config::new(dir.path())).await;
        let faults: Vec<&str> = checks
            .iter()
            .filter(|check| !check.is_good())
            .map(|check| check.what)
            .collect();
        assert_eq!(faults, ["identity", "address"]);
        assert!(checks.iter().all(|check| check.text().contains(check.what)));
        let missing = Config::new(dir.path().join("missing"));
        assert!(!folder(&missing).is_good());
    }
}
