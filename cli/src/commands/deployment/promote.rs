//! `deployment promote`

use kernex_proto::v1;

use super::{resolve::resolve, steer_result};
use crate::{
    args::deployment::PromoteArgs,
    client::{Client, request_id},
    commands::{Session, present},
    error::Failure,
};

/// Opens the phase that is next at this moment.
pub(super) async fn run(session: &Session, args: PromoteArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let steer = args.steer;
    let id = resolve(&client, &steer.id).await?;
    let phase = match args.phase {
        Some(phase) => phase,
        None => next_phase(&client, &id).await?,
    };
    let request = v1::PromoteDeploymentRequest {
        deployment_id: id,
        phase,
        request_id: request_id(),
    };
    let answer = client
        .rollouts()
        .promote_deployment(request)
        .await?
        .into_inner();
    let next = format!("Phase {phase} is open.");
    steer_result::print(&steer, answer.deployment, &next)
}

/// The request names the phase, so two operators at the same time cannot open two phases.
async fn next_phase(client: &Client, id: &str) -> Result<u32, Failure> {
    let request = v1::GetDeploymentRequest {
        deployment_id: id.to_owned(),
    };
    let answer = client
        .deployments()
        .get_deployment(request)
        .await?
        .into_inner();
    let deployment = present(answer.deployment, "deployment")?;
    let last = deployment.phases.len() as u32;
    // The server explains best why there is no next one.
    Ok(if deployment.phase < last {
        deployment.phase + 1
    } else {
        0
    })
}
