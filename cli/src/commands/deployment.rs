//! `deployment`: see, watch, steer and stop deployments. One file a verb.

use super::Session;
use crate::{args::deployment::DeploymentCommand, error::Failure};

mod cancel;
mod get;
mod halt;
mod list;
mod pause;
mod promote;
mod resume;
mod retry;
mod rollback;
mod steer_result;
pub(crate) mod watch;

pub(crate) async fn run(session: &Session, command: DeploymentCommand) -> Result<(), Failure> {
    match command {
        DeploymentCommand::List { limit, output } => list::run(session, limit, output).await,
        DeploymentCommand::Get { id, output } => get::run(session, id, output).await,
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
