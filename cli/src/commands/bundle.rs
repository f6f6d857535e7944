//! `bundle`: make, push and fetch bundles. One file a verb.

use super::Session;
use crate::{args::bundle::BundleCommand, error::Failure};

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
        BundleCommand::Pack { dir, file, args } => pack::run(&dir, file.path, args).await,
        BundleCommand::Push {
            path,
            name,
            args,
            output,
        } => push::run(session, &path, name.as_deref(), args, output).await,
        BundleCommand::Pull {
            bundle,
            file,
            force,
        } => pull::run(session, &bundle, file.path, force).await,
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
