//! Completes names by asking the server. The shell waits meanwhile, so there is little time. An
//! error gives no suggestions.

use std::{ffi::OsStr, time::Duration};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use kernex_proto::{
    event_kinds::{ALL, by_subject},
    v1,
};

use crate::{
    client::Client,
    context::{ConfigFile, process_env, resolve},
    error::Failure,
    output::token::TokenView,
    text::{Time, short_id, state_word},
};

/// The environment variable by which a shell's script asks for suggestions.
pub(crate) const VARIABLE: &str = "KERNEXCTL_COMPLETE";

/// How long a shell is kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most suggestions; nobody reads more.
const MOST: u32 = 100;

/// Names of devices.
pub(crate) fn devices() -> ArgValueCompleter {
    asking(async |client, typed| {
        let request = v1::ListDevicesRequest {
            page_size: MOST,
            filter: Some(v1::DeviceFilter {
                name: format!("{typed}*"),
                ..v1::DeviceFilter::default()
            }),
            ..v1::ListDevicesRequest::default()
        };
        let page = client.devices().list_devices(request).await?.into_inner();
        let named = page.devices.into_iter().map(|device| {
            let status = state_word!(v1::DeviceStatus, device.status, "DEVICE_STATUS_");
            (device.name, status)
        });
        Ok(named.collect())
    })
}

/// The newest deployments, by their names and by the first digits of their ids.
pub(crate) fn deployments() -> ArgValueCompleter {
    asking(async |client, _| {
        let request = v1::ListDeploymentsRequest {
            page_size: MOST,
            ..v1::ListDeploymentsRequest::default()
        };
        let page = client
            .deployments()
            .list_deployments(request)
            .await?
            .into_inner();
        Ok(page.deployments.into_iter().flat_map(names_of).collect())
    })
}

/// What commands take for a deployment: its name if it has one, and the first digits of its id.
fn names_of(deployment: v1::Deployment) -> Vec<(String, String)> {
    let state = state_word!(v1::DeploymentState, deployment.state, "DEPLOYMENT_STATE_");
    let help = format!("{} {state}", deployment.bundle);
    let id = short_id(&deployment.id).to_owned();
    let names = [deployment.name, id].into_iter();
    names
        .filter(|name| !name.is_empty())
        .map(|name| (name, help.clone()))
        .collect()
}

/// Names of operator tokens that work.
pub(crate) fn tokens() -> ArgValueCompleter {
    asking(async |client, _| {
        let request = v1::ListOperatorTokensRequest {
            page_size: MOST,
            ..v1::ListOperatorTokensRequest::default()
        };
        let page = client.access().list_operator_tokens(request).await?;
        let tokens = page.into_inner().tokens.into_iter();
        Ok(tokens_of(tokens, Time::now()))
    })
}

fn tokens_of(tokens: impl Iterator<Item = v1::OperatorToken>, now: Time) -> Vec<(String, String)> {
    let works = |token: &v1::OperatorToken| TokenView::from(token.clone()).works(now);
    let named = tokens.filter(works).map(|token| {
        let role = state_word!(v1::Role, token.role, "ROLE_");
        (token.name, role)
    });
    named.collect()
}

/// Kinds of events, and their subjects.
pub(crate) fn event_kinds() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let subjects = by_subject().into_iter();
        let subjects = subjects.map(|(subject, verbs)| {
            let all = format!("all {} kinds", verbs.len());
            (subject.to_owned(), all)
        });
        let kinds = ALL.iter().map(|kind| ((*kind).to_owned(), String::new()));
        suggestions(typed, subjects.chain(kinds).collect())
    })
}

/// Words that `explain` knows.
pub(crate) fn words() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| suggestions(typed, crate::commands::explain::words()))
}

/// Bundles as name:version, newest first.
pub(crate) fn bundles() -> ArgValueCompleter {
    asking(async |client, typed| {
        let (name, _) = typed.split_once(':').unwrap_or_default();
        let request = v1::ListBundlesRequest {
            name: name.to_owned(),
            page_size: MOST,
            ..v1::ListBundlesRequest::default()
        };
        let page = client.bundles().list_bundles(request).await?.into_inner();
        let named = page.bundles.into_iter().map(|bundle| {
            let pushed = crate::text::bytes(bundle.size_bytes);
            (format!("{}:{}", bundle.name, bundle.version), pushed)
        });
        Ok(named.collect())
    })
}

/// Names of contexts, which are in a file here.
pub(crate) fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let contexts = ConfigFile::locate(&process_env).and_then(|file| file.read());
        let contexts = contexts.unwrap_or_default().contexts.into_iter();
        let named = contexts.map(|(name, context)| (name, context.server));
        suggestions(typed, named.collect())
    })
}

/// A completer that asks the server of the context that is typed, or of the current one.
fn asking<F>(ask: F) -> ArgValueCompleter
where
    F: AsyncFn(&Client, &str) -> Result<Vec<(String, String)>, Failure> + Send + Sync + 'static,
{
    ArgValueCompleter::new(move |typed: &OsStr| {
        let text = typed.to_string_lossy();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else {
            return Vec::new();
        };
        let answer = runtime.block_on(async {
            let asked = async {
                let contexts = ConfigFile::locate(&process_env)?.read()?;
                let context = resolve(typed_context().as_deref(), &process_env, &contexts)?;
                let client = Box::pin(Client::connect(&context)).await?;
                ask(&client, &text).await
            };
            tokio::time::timeout(PATIENCE, asked).await
        });
        match answer {
            Ok(Ok(named)) => suggestions(typed, named),
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    })
}

/// What `--context` says on the line that is completed.
fn typed_context() -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if word == "--context" {
            return words.next();
        }
        if let Some(name) = word.strip_prefix("--context=") {
            return Some(name.to_owned());
        }
    }
    None
}

fn suggestions(typed: &OsStr, named: Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let fitting = named
        .into_iter()
        .filter(|(name, _)| name.starts_with(&*typed));
    fitting
        .map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: Vec<(String, String)>) -> Vec<String> {
        found.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_deployment_is_suggested_by_its_name_and_its_id() {
        let deployment = v1::Deployment {
            id: "01a22470-1f3c-7abc-8def-000000000001".into(),
            name: "nightly.7".into(),
            ..Default::default()
        };
        let unnamed = v1::Deployment {
            name: String::new(),
            ..deployment.clone()
        };
        assert_eq!(names(names_of(deployment)), ["nightly.7", "01a22470-1f3c"]);
        assert_eq!(names(names_of(unnamed)), ["01a22470-1f3c"]);
    }

    #[test]
    fn only_tokens_that_work_are_suggested() {
        let token = |name: &str, revoked: Option<i64>| v1::OperatorToken {
            name: name.into(),
            revoked_at: revoked.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        };
        let tokens = [token("ci", None), token("old", Some(5))];
        assert_eq!(names(tokens_of(tokens.into_iter(), Time::at(9))), ["ci"]);
    }

    #[test]
    fn words_of_the_glossary_are_suggested_one_by_one() {
        let words = names(crate::commands::explain::words());
        for word in ["disk_full", "superseded", "canary", "denied"] {
            assert!(words.iter().any(|known| known == word), "{word}");
        }
        let typed = OsStr::new("disk_");
        let found = suggestions(typed, crate::commands::explain::words());
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
