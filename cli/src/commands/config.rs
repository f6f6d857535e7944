//! `config`: settings of agents. One file a verb.

use super::Session;
use crate::{args::config::ConfigCommand, error::Failure};

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
