//! `bundle`: make, push and fetch bundles. One file a verb.

use super::Session;
use crate::{args::BundleCommand, error::Failure};

mod delete;
mod get;
mod init;
mod list;
mod pack;
mod pull;
pub(crate) mod push;

pub(crate) async fn run(session: &Session, command: BundleCommand) -> Result<(), Failure> {
    match command {
        BundleCommand::Init { dir, name } => init::run(&dir, name),
        BundleCommand::Pack { dir, output } => pack::run(&dir, output).await,
        BundleCommand::Push { path, name, output } => {
            push::run(session, &path, name.as_deref(), output).await
        }
        BundleCommand::Pull { bundle, output } => pull::run(session, &bundle, output).await,
        BundleCommand::List { name, output } => list::run(session, &name, output).await,
        BundleCommand::Get { bundle, output } => get::run(session, &bundle, output).await,
        BundleCommand::Delete {
            bundle: Some(bundle),
            consent,
            ..
        } => delete::run(session, &bundle, consent).await,
        BundleCommand::Delete {
            bundle: None,
            older_than,
            consent,
            ..
        } => delete::collect(session, older_than, consent).await,
    }
}
