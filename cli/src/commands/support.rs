//! `support-bundle`: what a helper has to know, in one JSON file that can be read before it is
//! sent. Possible secrets are left out: tokens, values of configurations, and the output of
//! scripts.

use std::{io::Write as _, path::Path};

use kernex_proto::v1;
use serde_json::{Value, json};

use super::{Session, deployment::list, doctor};
use crate::{
    client::Client,
    error::Failure,
    files,
    output::{
        Time, configuration::ConfigurationView, deployment::DeploymentView, print_note,
        status::StatusView, target::TargetView,
    },
};

/// Newest deployments that are included.
const DEPLOYMENTS: u32 = 20;
/// Failed targets that are included, over all of these deployments.
const TARGETS: u32 = 50;

/// Fields that may hold secrets, wherever they are.
const LEFT_OUT: [&str; 3] = ["output_tail", "values", "token"];

pub(crate) async fn run(session: &Session, file: &Path) -> Result<(), Failure> {
    let context = session.context()?;
    let checks = Box::pin(doctor::check(&context, session.proxy())).await;
    let mut bundle = json!({
        "made_at": Time::now(),
        "kernexctl": env!("CARGO_PKG_VERSION"),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "server": context.server,
        "checks": plain(&checks),
    });
    // Where the server cannot be reached, the checks say why.
    if checks.iter().all(crate::output::doctor::CheckView::is_good) {
        let client = Client::connect_by(&context, session.proxy()).await?;
        let found = ask(&client).await?;
        if let (Some(bundle), Value::Object(found)) = (bundle.as_object_mut(), found) {
            bundle.extend(found);
        }
    }
    without_secrets(&mut bundle);
    let text = serde_json::to_vec_pretty(&bundle).unwrap_or_default();
    write(file, &text).map_err(|error| Failure::file("write", file, &error))?;
    print_note(&format!(
        "Wrote `{}`. Tokens, values of configurations and the output of scripts are left out; read it before you send it.",
        file.display()
    ));
    Ok(())
}

async fn ask(client: &Client) -> Result<Value, Failure> {
    let request = v1::GetFleetSummaryRequest { limit: 100 };
    let summary = client.fleet().get_fleet_summary(request).await?;
    let deployments = list::fetch(client, Some(DEPLOYMENTS), None).await?.items;
    let mut failed = Vec::new();
    for deployment in &deployments {
        let left = TARGETS.saturating_sub(u32::try_from(failed.len()).unwrap_or(u32::MAX));
        let counts = deployment.counts.unwrap_or_default();
        if left == 0 || counts.failed + counts.expired == 0 {
            continue;
        }
        let request = v1::ListTargetsRequest {
            deployment_id: deployment.id.clone(),
            page_size: left,
            filter: Some(v1::TargetFilter {
                states: vec![
                    v1::AttemptState::Failed.into(),
                    v1::AttemptState::Expired.into(),
                ],
                ..v1::TargetFilter::default()
            }),
            ..v1::ListTargetsRequest::default()
        };
        let page = client.deployments().list_targets(request).await?;
        failed.extend(page.into_inner().targets);
    }
    let configurations = client
        .configurations()
        .list_configurations(v1::ListConfigurationsRequest {})
        .await?
        .into_inner()
        .configurations;
    let deployments = deployments.into_iter().map(DeploymentView::from);
    let failed = failed.into_iter().map(TargetView::from);
    let configurations = configurations.into_iter().map(ConfigurationView::from);
    Ok(json!({
        "status": plain(&StatusView::from(summary.into_inner())),
        "deployments": plain(&deployments.collect::<Vec<_>>()),
        "failed_targets": plain(&failed.collect::<Vec<_>>()),
        "configurations": plain(&configurations.collect::<Vec<_>>()),
    }))
}

fn plain<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Replaces what may be secret, at every depth; names of values stay.
fn without_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if LEFT_OUT.contains(&name.as_str()) {
                    leave_out(field);
                } else {
                    without_secrets(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        _ => {}
    }
}

fn leave_out(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(leave_out),
        Value::Array(items) => items.iter_mut().for_each(leave_out),
        Value::String(text) if text.is_empty() => {}
        other => *other = Value::from("(left out)"),
    }
}

/// The file is for its owner alone.
fn write(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(text)?;
    aside.write_all(b"\n")?;
    files::keep_private(aside.as_file())?;
    aside.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_left_out_at_every_depth() {
        let mut bundle = json!({
            "token": "kxo1.secret",
            "deployments": [{"id": "d", "targets": [{"output_tail": "password", "state": "failed"}]}],
            "configurations": [{"name": "c", "values": {"TOKEN": "s3cret", "EMPTY": ""}}],
        });
        without_secrets(&mut bundle);
        let text = bundle.to_string();
        for secret in ["kxo1.secret", "password", "s3cret"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(bundle["configurations"][0]["values"]["TOKEN"], "(left out)");
        assert_eq!(bundle["configurations"][0]["values"]["EMPTY"], "");
        assert_eq!(bundle["deployments"][0]["targets"][0]["state"], "failed");
    }
}
