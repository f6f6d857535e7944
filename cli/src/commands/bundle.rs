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

pub(crate) use delete::run as delete_one;

pub(crate) async fn run(session: &Session, command: BundleCommand) -> Result<(), Failure> {
    match command {
        BundleCommand::Init { dir, name } => init::run(&dir, name),
        BundleCommand::Pack { dir, file } => pack::run(&dir, file.path).await,
        BundleCommand::Push { path, name, output } => {
            push::run(session, &path, name.as_deref(), output).await
        }
        BundleCommand::Pull { bundle, file } => pull::run(session, &bundle, file.path).await,
        BundleCommand::List { name, list, output } => list::run(session, &name, list, output).await,
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
