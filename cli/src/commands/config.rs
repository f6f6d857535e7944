//! `config`: what agents go by.

use kernex_proto::v1::{self, configuration::Scope};

use super::{Session, confirm, present};
use crate::{
    args::config::{ConfigCommand, SetArgs},
    client::{call, request_id, timed},
    error::Failure,
    output::{
        Printer,
        configuration::{ConfigurationView, DeviceConfigurationView},
        say,
    },
};

/// Runs one of the verbs.
pub(super) async fn run(session: &Session, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Set(args) => set(session, *args).await,
        ConfigCommand::List { output } => {
            let client = session.connect().await?;
            let request = v1::ListConfigurationsRequest {};
            let answer = call(
                "kernex.v1.ConfigurationService/ListConfigurations",
                client.configurations().list_configurations(timed(request)),
            )
            .await?;
            let views = answer.configurations.into_iter().map(Into::into);
            let views: Vec<ConfigurationView> = views.collect();
            Printer::new(output.output).list(&views)
        }
        ConfigCommand::Get { device, output } => {
            let client = session.connect().await?;
            let request = v1::GetDeviceConfigurationRequest {
                device: device.clone(),
            };
            let answer = call(
                "kernex.v1.ConfigurationService/GetDeviceConfiguration",
                client
                    .configurations()
                    .get_device_configuration(timed(request)),
            )
            .await?;
            Printer::new(output.output).one(&DeviceConfigurationView::new(device, answer))
        }
        ConfigCommand::Delete { name, consent } => {
            confirm(consent, &format!("Delete the configuration {name}?"))?;
            let client = session.connect().await?;
            let request = v1::DeleteConfigurationRequest {
                name: name.clone(),
                request_id: request_id(),
            };
            call(
                "kernex.v1.ConfigurationService/DeleteConfiguration",
                client.configurations().delete_configuration(timed(request)),
            )
            .await?;
            say(&format!("Deleted {name}; its devices go on without it."));
            Ok(())
        }
    }
}

async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let printer = Printer::new(args.output.output);
    let request = v1::SetConfigurationRequest {
        configuration: Some(wanted(args)),
        request_id: request_id(),
    };
    let answer = call(
        "kernex.v1.ConfigurationService/SetConfiguration",
        client.configurations().set_configuration(timed(request)),
    )
    .await?;
    let configuration = present(answer.configuration, "configuration")?;
    printer.list(&[ConfigurationView::from(configuration)])
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
