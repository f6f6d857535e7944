//! How an agent was started: its arguments and its environment. The agent that runs is another
//! process than the one that makes a support bundle, and may have other settings: a service manager
//! gives it some.

use std::{collections::BTreeMap, fs};

use kernex_proto::connect::proxy::{self, without_credentials};
use serde_json::{Value, json};

use super::secrets::LEFT_OUT;
use crate::config::{secret_settings, setting_variables};

/// How the agent that runs was started; null when none does.
pub(super) fn running(process: Option<u32>) -> Value {
    let Some(process) = process else {
        return Value::Null;
    };
    let read = |what: &str| fs::read(format!("/proc/{process}/{what}"));
    match (read("cmdline"), read("environ")) {
        (Ok(cmdline), Ok(environ)) => json!({
            "arguments": arguments(texts(&cmdline)),
            "environment": environment(texts(&environ).filter_map(|text| {
                let (name, value) = text.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })),
        }),
        // As another user, for example.
        (Err(error), _) | (_, Err(error)) => json!({"error": error.to_string()}),
    }
}

/// Texts that each end with a zero byte, as `/proc` has them.
fn texts(bytes: &[u8]) -> impl Iterator<Item = String> {
    let texts = bytes.split(|byte| *byte == 0);
    let texts = texts.filter(|text| !text.is_empty());
    texts.map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Arguments without the values of settings that may be secret.
fn arguments(given: impl Iterator<Item = String>) -> Vec<String> {
    let secret = secret_settings(|argument| Some(format!("--{}", argument.get_long()?)));
    let is_secret = |flag: &str| secret.iter().any(|secret| secret == flag);
    let mut is_value = false;
    let told = given.map(|argument| {
        if std::mem::take(&mut is_value) {
            return LEFT_OUT.to_owned();
        }
        match argument.split_once('=') {
            Some((flag, _)) if is_secret(flag) => format!("{flag}={LEFT_OUT}"),
            _ => {
                is_value = is_secret(&argument);
                argument
            }
        }
    });
    told.collect()
}

/// The variables that an agent looks at: settings with their values, where these cannot be secret;
/// proxies without passwords; names only of the others.
pub(super) fn environment(
    variables: impl Iterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let settings = setting_variables();
    let secret = secret_settings(|argument| Some(argument.get_env()?.to_str()?.to_owned()));
    let told = variables.filter_map(|(name, value)| {
        if proxy::VARIABLES.contains(&name.as_str()) {
            return Some((name, without_credentials(&value)));
        }
        if settings.contains(&name) && !secret.contains(&name) {
            return Some((name, value));
        }
        let is_ours = ["KERNEX_", "OTEL_"].iter().any(|its| name.starts_with(its));
        is_ours.then(|| (name, LEFT_OUT.to_owned()))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_may_be_secret_keep_their_names_only() {
        let set = [
            ("KERNEX_AGENT_TOKEN", "hunter2"),
            ("KERNEX_AGENT_PROXY", "http://ada:hunter2@p:3128"),
            ("KERNEX_AGENT_NAME", "edge-1"),
            ("KERNEX_CONFIG_PASSWORD", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key=hunter2"),
            ("https_proxy", "http://ada:hunter2@p:3128"),
            ("no_proxy", "localhost,.example"),
            ("PASSWORD", "hunter2"),
        ];
        let told = environment(
            set.map(|(name, value)| (name.into(), value.into()))
                .into_iter(),
        );
        let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            told,
            [
                ("KERNEX_AGENT_NAME", "edge-1"),
                ("KERNEX_AGENT_PROXY", LEFT_OUT),
                ("KERNEX_AGENT_TOKEN", LEFT_OUT),
                ("KERNEX_CONFIG_PASSWORD", LEFT_OUT),
                ("OTEL_EXPORTER_OTLP_HEADERS", LEFT_OUT),
                ("https_proxy", "http://p:3128"),
                ("no_proxy", "localhost,.example"),
            ]
        );
    }

    #[test]
    fn arguments_that_may_be_secret_lose_their_values() {
        let cmdline = b"kernex-agent\0run\0--token\0hunter2\0--name\0edge-1\0--proxy=hunter2\0--token-file\0/t\0";
        assert_eq!(
            arguments(texts(cmdline)),
            [
                "kernex-agent",
                "run",
                "--token",
                LEFT_OUT,
                "--name",
                "edge-1",
                "--proxy=(left out)",
                "--token-file",
                "/t",
            ]
        );
    }

    #[test]
    fn a_process_is_read_or_says_why_not() {
        assert_eq!(running(None), Value::Null);
        let own = running(Some(std::process::id()));
        assert!(own["arguments"][0].is_string(), "{own}");
        assert!(running(Some(u32::MAX))["error"].is_string());
    }
}
