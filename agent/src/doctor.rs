//! `kernex-agent doctor`: what keeps this machine from its control plane. It opens no session, so a
//! running agent is not disturbed.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use kernex_proto::{
    connect::doctor::{CheckResult, examine},
    error::chain,
    units,
};

use serde_json::{Value, json};

use crate::{
    clock,
    config::{Config, state_dir_flag},
    host::disk_space,
    identity::{self, Identity},
    status,
};

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
            None => format!("ok      {:<14}{}", self.what, self.found),
            Some(next) => format!(
                "FAILED  {:<14}{}\n        {:<14}next: {next}",
                self.what, self.found, ""
            ),
        }
    }
}

impl From<CheckResult> for Check {
    fn from(finding: CheckResult) -> Self {
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
    let identity = Identity::load(&config.state_dir).ok().flatten();
    checks.push(
        match (identity::check(&config.state_dir), &identity) {
            (Err(error), _) => {
                let next = error.next_step();
                Check::bad(
                    "identity",
                    chain(&error),
                    next.unwrap_or_else(|| "Run this as the owner of the state folder.".to_owned()),
                )
            }
            (Ok(()), Some(identity)) => {
                Check::good("identity", format!("enrolled as {}", identity.name))
            }
            (Ok(()), None) => Check::bad(
                "identity",
                "this machine is not enrolled",
                format!(
                    "Run `kernex-agent enroll --server URL --token-file FILE{}`; a token comes from `kernexctl enrollment \
                     create`.",
                    state_dir_flag(&config.state_dir)
                ),
            ),
        },
    );
    let enrolled_at = identity.as_ref().map(|identity| identity.server.clone());
    let Some(server) = config.servers.first().cloned().or(enrolled_at) else {
        checks.push(Check::bad(
            "address",
            "the address of the control plane is not known",
            "Give it with `--server https://HOST:PORT`.",
        ));
        return checks;
    };
    let trust = match identity.as_ref().map(Identity::trust) {
        Some(Ok(trust)) => trust,
        None => None,
        Some(Err(error)) => {
            checks.push(Check::bad(
                "certificate",
                chain(&error),
                "Mend that, or enrol this machine again.",
            ));
            return checks;
        }
    };
    let now = clock::wall().seconds;
    let findings = Box::pin(examine(&server, trust, &config.proxies, now, LIMIT)).await;
    let not_enrolled = identity.is_none();
    // Without an enrolment no CA is known, which was said already.
    checks.extend(
        findings
            .into_iter()
            .map(Check::from)
            .filter(|check| !(not_enrolled && check.what == "certificate")),
    );
    let is_well_so_far = checks.iter().all(Check::is_good);
    checks.push(session(config, is_well_so_far));
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
                "only {} are free in the state folder",
                units::bytes(space.free)
            ),
            "Free some space there.",
        ),
        Ok(space) => Check::good("disk", format!("{} are free", units::bytes(space.free))),
        Err(error) => Check::bad(
            "disk",
            format!("cannot be asked: {error}"),
            "Check the mount.",
        ),
    }
}

/// Whether the agent has a session. `is_well_so_far` says that no check before explains it when
/// there is none.
fn session(config: &Config, is_well_so_far: bool) -> Check {
    const BEGIN_ABOVE: &str = "Begin with the first check above that failed.";
    let status = match status::read_status(config) {
        Ok(status) => status,
        Err(error) => return Check::bad("session", chain(&error), BEGIN_ABOVE),
    };
    let (found, has_session) = status.session();
    if has_session {
        return Check::good("session", found);
    }
    let next = match status.next() {
        Some(next) => sentence(next),
        None if !is_well_so_far => BEGIN_ABOVE.to_owned(),
        None if !status.is_running() => {
            "Start it: `systemctl start kernex-agent`. If it runs, it has had no session yet: `journalctl -u kernex-agent`."
                .to_owned()
        }
        None => "See the log of the agent: `journalctl -u kernex-agent`.".to_owned(),
    };
    Check::bad("session", found, next)
}

/// With a capital first and a full stop last.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(rest).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::{ClusterId, DeviceId};

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

    #[tokio::test]
    async fn a_device_without_its_key_is_told_so_by_doctor_and_status() {
        let dir = tempfile::tempdir().unwrap();
        let device_json = serde_json::json!({
            "id": DeviceId::generate().to_string(),
            "name": "edge-6",
            // Nothing is asked of it: no host is named.
            "server": "https://",
            "cluster": ClusterId::generate().to_string(),
            "ca": "",
        });
        fs::write(dir.path().join("device.json"), device_json.to_string()).unwrap();
        let config = Config::new(dir.path());
        let checks = checks(&config).await;
        let identity = checks
            .iter()
            .find(|check| check.what == "identity")
            .unwrap();
        assert!(!identity.is_good());
        let text = identity.text();
        for part in ["device.key", "edge-6", "--new-key", "--replace edge-6"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let session = checks.last().unwrap();
        assert_eq!(session.what, "session");
        assert!(
            session.text().contains("Begin with the first"),
            "{checks:?}"
        );
        let status = status::read_status(&config).unwrap();
        assert!(!status.is_well());
        let lines = status.lines().join("\n");
        assert!(lines.contains("device.key"), "{lines}");
        let json = serde_json::to_value(&status).unwrap();
        assert!(json["identity_fault"].is_string(), "{json}");
    }

    #[test]
    fn a_session_that_does_not_open_has_the_next_step_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        let next = |is_well_so_far| session(&config, is_well_so_far).next.unwrap();
        assert!(next(true).contains("systemctl start"), "{}", next(true));
        assert!(next(false).contains("check above"), "{}", next(false));
        let noted = |next: Option<&str>| {
            let closed = status::Noted::Closed {
                error: "no session: this device was deleted",
                next: next.map(str::to_owned),
                wait: Duration::from_secs(600),
            };
            status::note(dir.path(), "https://h", &closed);
        };
        noted(None);
        assert!(next(true).contains("log of the agent"), "{}", next(true));
        noted(Some("stop the agent, and enrol it anew"));
        let check = session(&config, false);
        assert!(check.found.contains("was deleted"), "{check:?}");
        assert_eq!(
            check.next.as_deref(),
            Some("Stop the agent, and enrol it anew.")
        );
    }

    #[test]
    fn columns_stay_apart_and_advice_is_a_sentence() {
        for what in ["state folder", "certificate", "tcp"] {
            let text = Check::good(what, "found").text();
            assert!(text.contains("  found"), "{text}");
        }
        assert_eq!(sentence("stop the agent"), "Stop the agent.");
    }
}
