//! `config set`

use kernex_proto::v1::{self, configuration::Scope};

use super::with_device_names;
use crate::{
    args::config::SetArgs,
    client::{Client, request_id},
    commands::{Session, present},
    error::Failure,
    output::{Printer, configuration::ConfigurationView, print_note, printable},
};

/// Makes a configuration, or changes one.
pub(super) async fn run(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let printer = Printer::new(args.output.output);
    let name = args.name.clone();
    let before = match printer.for_people() {
        true => find(&client, &name).await?,
        false => None,
    };
    let request = v1::SetConfigurationRequest {
        configuration: Some(wanted(args)),
        request_id: request_id(),
    };
    let answer = client
        .configurations()
        .set_configuration(request)
        .await?
        .into_inner();
    let configuration = present(answer.configuration, "configuration")?;
    let left_out = before.and_then(|before| left_out(&before, &configuration));
    let views = vec![ConfigurationView::from(configuration)];
    printer.list(&with_device_names(&client, views).await)?;
    if let Some(note) = left_out {
        print_note(&note);
    }
    Ok(())
}

/// The configuration of this name, if there is one.
async fn find(client: &Client, name: &str) -> Result<Option<v1::Configuration>, Failure> {
    let request = v1::ListConfigurationsRequest {};
    let all = client.configurations().list_configurations(request).await?;
    let mut all = all.into_inner().configurations.into_iter();
    Ok(all.find(|configuration| configuration.name == name))
}

/// What is said of settings and values that the revision before had and this one has not: they are
/// replaced together.
fn left_out(before: &v1::Configuration, now: &v1::Configuration) -> Option<String> {
    let had = set(before).into_iter();
    let has = set(now);
    let lost: Vec<String> = had.filter(|name| !has.contains(name)).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "Revision {} had also {}: name everything that is to be kept.",
            before.revision,
            lost.join(", ")
        )
    })
}

/// The options that set what a configuration has.
fn set(configuration: &v1::Configuration) -> Vec<String> {
    let settings = configuration.settings.clone().unwrap_or_default();
    let flags = [
        ("--heartbeat", settings.heartbeat_interval_ms.is_some()),
        ("--silence", settings.silence_timeout_ms.is_some()),
        ("--log", settings.log.is_some()),
        ("--max-script", settings.max_script_seconds.is_some()),
        ("--script-grace", settings.script_grace_ms.is_some()),
        ("--keep-releases", settings.keep_releases.is_some()),
    ];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
    let values = configuration.values.keys();
    flags
        .map(|(flag, _)| flag.to_owned())
        .chain(values.map(|name| format!("--value {}", printable(name))))
        .collect()
}

fn wanted(args: SetArgs) -> v1::Configuration {
    let millis = |time: Option<std::time::Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    v1::Configuration {
        name: args.name,
        scope: match (args.device, args.to) {
            (Some(device), _) => Some(Scope::DeviceId(device)),
            (None, selector) => selector.map(Scope::Selector),
        },
        settings: Some(v1::AgentSettings {
            heartbeat_interval_ms: millis(args.heartbeat),
            silence_timeout_ms: millis(args.silence),
            log: args.log,
            max_script_seconds: args.max_script.map(|time| time.as_secs()),
            script_grace_ms: millis(args.script_grace),
            keep_releases: args.keep_releases,
        }),
        values: args.values.into_iter().collect(),
        revision: args.revision.unwrap_or(0),
        updated_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_revision_leaves_out_is_told() {
        let before = v1::Configuration {
            revision: 1,
            settings: Some(v1::AgentSettings {
                heartbeat_interval_ms: Some(5_000),
                log: Some("info".into()),
                ..Default::default()
            }),
            values: [("color", "red"), ("size", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        };
        let mut now = before.clone();
        now.revision = 2;
        assert_eq!(left_out(&before, &now), None);
        now.settings = Some(v1::AgentSettings {
            log: Some("debug".into()),
            ..Default::default()
        });
        now.values.remove("size");
        let said = left_out(&before, &now).unwrap();
        assert!(
            said.starts_with("Revision 1 had also --heartbeat, --value size: "),
            "{said}"
        );
    }
}
