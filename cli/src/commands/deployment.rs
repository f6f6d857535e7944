//! `deployment`: see, watch, steer and stop deployments. One file a verb.

use super::Session;
use crate::{args::deployment::DeploymentCommand, error::Failure};

mod cancel;
mod finished;
mod get;
mod halt;
pub(crate) mod list;
mod pause;
mod promote;
pub(crate) mod resolve;
mod resume;
mod retry;
mod rollback;
mod steer_result;
pub(crate) mod watch;

pub(crate) async fn run(session: &Session, command: DeploymentCommand) -> Result<(), Failure> {
    match command {
        DeploymentCommand::List {
            filter,
            list,
            output,
        } => list::run(session, filter, list, output).await,
        DeploymentCommand::Get {
            id,
            filter,
            list,
            output,
        } => get::run(session, id, filter, list, output).await,
        DeploymentCommand::Watch {
            id,
            timeout,
            output,
        } => watch::run(session, &id, timeout, output).await,
        DeploymentCommand::Rollback(args) => rollback::run(session, args).await,
        DeploymentCommand::Pause { steer, reason } => pause::run(session, steer, reason).await,
        DeploymentCommand::Resume(steer) => resume::run(session, steer).await,
        DeploymentCommand::Promote(args) => promote::run(session, args).await,
        DeploymentCommand::Retry(args) => retry::run(session, args).await,
        DeploymentCommand::Halt(args) => halt::run(session, args).await,
        DeploymentCommand::Cancel {
            id,
            consent,
            output,
        } => cancel::run(session, id, consent, output).await,
    }
}
