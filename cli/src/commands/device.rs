//! `device`: which there are, how they are, what they run. One file a verb.

use super::Session;
use crate::{args::device::DeviceCommand, error::Failure};

mod delete;
mod get;
mod history;
mod label;
pub(crate) mod list;
mod metrics;
mod resolve;
mod watch;

pub(crate) async fn run(session: &Session, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List {
            filter,
            watch: true,
            output,
            ..
        } => watch::run(session, &filter, output).await,
        DeviceCommand::List {
            filter,
            list,
            output,
            ..
        } => list::run(session, filter, list, output).await,
        DeviceCommand::Get { devices, output } => get::run(session, devices, output).await,
        DeviceCommand::Label {
            device,
            changes,
            selector,
            consent,
            output,
        } => match selector {
            Some(selector) => {
                let changes = device.into_iter().chain(changes);
                label::run_for_all(session, &selector, changes.collect(), consent).await
            }
            None => label::run(session, device.unwrap_or_default(), changes, output).await,
        },
        DeviceCommand::Metrics {
            device,
            limit,
            output,
        } => metrics::run(session, &device, limit, output).await,
        DeviceCommand::History {
            device,
            limit,
            output,
        } => history::run(session, &device, limit, output).await,
        DeviceCommand::Resolve {
            device,
            allow_downgrade,
            consent,
            output,
        } => resolve::run(session, device, allow_downgrade, consent, output).await,
        DeviceCommand::Delete { device, consent } => delete::run(session, device, consent).await,
    }
}
