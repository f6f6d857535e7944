//! `device`: which there are, how they are, what they run. One file a verb.

use super::Session;
use crate::{args::DeviceCommand, error::Failure};

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
            selector,
            watch: true,
            output,
        } => watch::run(session, &selector, output).await,
        DeviceCommand::List {
            selector, output, ..
        } => list::run(session, &selector, output).await,
        DeviceCommand::Get { device, output } => get::run(session, device, output).await,
        DeviceCommand::Label {
            device,
            changes,
            output,
        } => label::run(session, device, changes, output).await,
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
