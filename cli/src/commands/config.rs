//! `config`: settings of agents. One file a verb.

use kernex_proto::v1;

use super::Session;
use crate::{
    args::config::ConfigCommand, client::Client, error::Failure,
    output::configuration::ConfigurationView,
};

mod delete;
mod get;
mod list;
mod set;

pub(crate) async fn run(session: &Session, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Set(args) => set::run(session, *args).await,
        ConfigCommand::List { output } => list::run(session, output).await,
        ConfigCommand::Get { device, output } => get::run(session, device, output).await,
        ConfigCommand::Delete { name, consent } => delete::run(session, name, consent).await,
    }
}

/// Puts the names of devices beside their ids, for people. Without an answer the id stays.
async fn with_device_names(
    client: &Client,
    views: Vec<ConfigurationView>,
) -> Vec<ConfigurationView> {
    let mut named = Vec::with_capacity(views.len());
    for view in views {
        let device = match view.device_id() {
            Some(id) => name_of(client, id).await,
            None => None,
        };
        named.push(match device {
            Some(name) => view.for_device(name),
            None => view,
        });
    }
    named
}

async fn name_of(client: &Client, id: &str) -> Option<String> {
    let request = v1::GetDeviceRequest {
        device: id.to_owned(),
    };
    let answer = client.devices().get_device(request).await;
    answer.ok()?.into_inner().device.map(|device| device.name)
}
