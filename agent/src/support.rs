//! `kernex-agent support-bundle`: what somebody who helps has to know about this device, in one
//! file of JSON that can be read before it is sent. The agent may run or not. What may be secret is
//! left out: the device's key, tokens, passwords, values of configurations, manifests, and the
//! output of scripts.
//!
//! A part that cannot be found says why, and the others are written all the same: the bundle is
//! made where something is broken.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use anyhow::Context as _;
use kernex_proto::{error::chain, v1};
use serde_json::{Map, Value, json};

use crate::{
    clock,
    config::Config,
    doctor, durable,
    identity::{self, Identity},
    journal,
    settings::Settings,
    status,
};

mod machine;
mod releases;
mod secrets;
mod started;

use secrets::LEFT_OUT;

/// Where the log is. The agent writes it to its standard error and keeps none.
const LOG: &str = "not kept in the state folder; under systemd: `journalctl -u kernex-agent`";

/// Writes the bundle into a file that its owner alone can read. `invalid` says why the settings are
/// the defaults.
pub(crate) async fn run(
    config: &Config,
    invalid: Option<String>,
    file: &Path,
) -> anyhow::Result<()> {
    let mut bundle = Box::pin(bundle(config)).await;
    bundle["settings"]["invalid"] = invalid.into();
    secrets::cut(&mut bundle);
    let mut text = serde_json::to_vec_pretty(&bundle)?;
    text.push(b'\n');
    durable::replace(file, &text).with_context(|| {
        format!(
            "cannot write {}; name a file in another folder with --output",
            file.display()
        )
    })?;
    writeln!(
        std::io::stderr(),
        "Wrote `{}`. The device's key, tokens, passwords, values of configurations, manifests and the output of scripts are \
         left out; read it before you send it.",
        file.display()
    )?;
    Ok(())
}

async fn bundle(config: &Config) -> Value {
    let looked_at = config.clone();
    let found = tokio::task::spawn_blocking(move || state(&looked_at)).await;
    let mut bundle = found.unwrap_or_else(|error| json!({"error": error.to_string()}));
    // It may wait for the network, so it is asked once everything else is there.
    let checks = Box::pin(doctor::checks(config)).await;
    bundle["checks"] = checks.iter().map(doctor::Check::json).collect();
    bundle
}

/// What is on this machine; the network is not asked.
fn state(config: &Config) -> Value {
    let state_dir = &config.state_dir;
    let read = journal::summary(&state_dir.join("journal.redb"));
    let (journal, configuration) = match read {
        Ok(read) => (read.json, read.configuration),
        Err(error) => (fault(&error), None),
    };
    let status = status::read_status(config);
    let process = status.as_ref().ok().and_then(status::Status::process);
    let identity = Identity::load(state_dir);
    let server = config.servers.first().cloned().or_else(|| {
        let enrolled = identity.as_ref().ok()?.as_ref()?;
        Some(enrolled.server.clone())
    });
    json!({
        "made_at": clock::wall().to_string(),
        "kernex_agent": env!("CARGO_PKG_VERSION"),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "host": machine::host(),
        "settings": {
            "as_started": as_started(config, server.as_deref()),
            "configuration": configuration.as_ref().map(received_configuration),
            "in_force": in_force(config, configuration.as_ref()),
            "environment": started::environment(own_environment()),
            "running": started::running(process),
        },
        "identity": match &identity {
            Ok(identity) => identity.as_ref().map_or(Value::Null, |identity| {
                enrolled(identity, state_dir)
            }),
            Err(error) => fault(error),
        },
        "status": match &status {
            Ok(status) => json!(status),
            Err(error) => fault(error),
        },
        "journal": journal,
        "releases": releases::all(state_dir),
        "disk": machine::disk(state_dir),
        "mounts": machine::mounts(state_dir),
        "files": machine::files(state_dir),
        "log": LOG,
    })
}

fn own_environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

fn fault(error: &(dyn std::error::Error + 'static)) -> Value {
    json!({"error": chain(error)})
}

/// What this command was started with: its arguments, its environment and the file they name.
fn as_started(config: &Config, server: Option<&str>) -> Value {
    // Without `..`, so that a new setting is either told or left out on purpose.
    let Config {
        state_dir,
        servers,
        proxies,
        token,
        name,
        max_script_time,
        script_grace,
        keep_releases,
        max_reconnect_wait,
        max_download_rate,
        max_archive_space,
        no_new_privs,
        allow_downgrade,
        log_filter: _,
    } = config;
    json!({
        "state_dir": state_dir.to_string_lossy(),
        "servers": servers,
        "proxy": server.and_then(|server| proxies.shown_for(server)),
        "token": token.as_ref().map(|_| LEFT_OUT),
        "name": name,
        "max_script_seconds": max_script_time.map(|time| time.as_secs()),
        "script_grace_ms": millis(*script_grace),
        "keep_releases": keep_releases,
        "max_reconnect_seconds": max_reconnect_wait.as_secs(),
        "max_download_rate": max_download_rate,
        "max_archive_space": max_archive_space,
        "no_new_privs": no_new_privs,
        "allow_downgrade": allow_downgrade,
    })
}

/// The server's configuration, with the names of its values.
fn received_configuration(configuration: &v1::Configure) -> Value {
    let settings = configuration.settings.as_ref();
    json!({
        "revision": configuration.revision,
        "settings": settings.map(|settings| json!({
            "heartbeat_interval_ms": settings.heartbeat_interval_ms,
            "silence_timeout_ms": settings.silence_timeout_ms,
            "log": settings.log,
            "max_script_seconds": settings.max_script_seconds,
            "script_grace_ms": settings.script_grace_ms,
            "keep_releases": settings.keep_releases,
        })),
        "values": names(configuration.values.keys()),
    })
}

/// What is followed when both are taken together, or why the configuration is refused.
fn in_force(config: &Config, configuration: Option<&v1::Configure>) -> Value {
    let (settings, refused) = match configuration.map(|it| Settings::configured(config, it)) {
        None => (Settings::new(config), None),
        Some(Ok(settings)) => (settings, None),
        Some(Err(why)) => (Settings::new(config), Some(why)),
    };
    let Settings {
        revision,
        heartbeat,
        silence,
        log,
        max_script_time,
        script_grace,
        stop_grace,
        keep_releases,
        values,
    } = settings;
    json!({
        "refused": refused,
        "revision": revision,
        "heartbeat_interval_ms": heartbeat.map(millis),
        "silence_timeout_ms": silence.map(millis),
        "log": log,
        "max_script_seconds": max_script_time.as_secs(),
        "script_grace_ms": millis(script_grace),
        "stop_grace_ms": millis(stop_grace),
        "keep_releases": keep_releases,
        "values": names(values.keys()),
    })
}

/// The names of values, which stay, with what stands in place of each value.
fn names<'a>(names: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let sorted: BTreeMap<&String, &str> = names.map(|name| (name, LEFT_OUT)).collect();
    let told = sorted.into_iter();
    told.map(|(name, out)| (name.clone(), out.into())).collect()
}

/// Who this device is to its control plane. A CA's certificate is no secret, and long.
fn enrolled(identity: &Identity, state_dir: &Path) -> Value {
    let trust = match (&identity.webpki, identity.ca_pem.is_empty()) {
        (Some(webpki), _) => format!("the authorities of this machine, for {}", webpki.name),
        (None, false) => "the pinned CA".to_owned(),
        (None, true) => "no TLS".to_owned(),
    };
    json!({
        "device": identity.device.to_string(),
        "name": identity.name,
        "server": identity.server,
        "cluster": identity.cluster.to_string(),
        "trust": trust,
        "key": match identity::check(state_dir) {
            Ok(()) => json!("in the state folder"),
            Err(error) => fault(&error),
        },
        "protocol_revision": identity.protocol_revision,
    })
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_where_nothing_is_there_yet_is_told_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let found = bundle(&Config::new(dir.path().join("missing"))).await;
        for part in ["journal", "disk", "files"] {
            assert!(found[part]["error"].is_string(), "{part}: {found}");
        }
        assert_eq!(found["identity"], Value::Null);
        assert_eq!(found["status"]["running"], false);
        assert_eq!(found["settings"]["in_force"]["keep_releases"], 2);
        assert_eq!(found["checks"][0]["ok"], false);
        assert!(
            !dir.path().join("missing").exists(),
            "looking makes nothing"
        );
    }

    #[test]
    fn a_configuration_that_is_refused_says_why() {
        let refused = v1::Configure {
            revision: 9,
            settings: Some(v1::AgentSettings {
                keep_releases: Some(0),
                ..v1::AgentSettings::default()
            }),
            values: [("PASSWORD".to_owned(), "hunter2".to_owned())].into(),
        };
        let config = Config::new("/s");
        let found = in_force(&config, Some(&refused));
        let why = found["refused"].as_str().unwrap();
        assert!(why.contains("keep_releases"), "{why}");
        assert_eq!(
            (&found["revision"], &found["keep_releases"]),
            (&json!(0), &json!(2))
        );
        assert_eq!(
            received_configuration(&refused)["values"]["PASSWORD"],
            LEFT_OUT
        );
    }
}
