//! `deployment retry`

use kernex_proto::v1;

use super::{resolve::resolve, steer_result};
use crate::{
    args::deployment::RetryArgs,
    client::request_id,
    commands::{Session, present},
    error::Failure,
};

pub(super) async fn run(session: &Session, args: RetryArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let steer = args.steer;
    let id = resolve(&client, &steer.id).await?;
    let request = v1::RetryDeploymentRequest {
        deployment_id: id.clone(),
        devices: args.devices,
        request_id: request_id(),
    };
    let answer = client
        .rollouts()
        .retry_deployment(request)
        .await?
        .into_inner();
    let deployment = present(answer.deployment, "deployment")?;
    let mut next = format!("{} devices are tried again", answer.retried);
    if answer.left_out > 0 {
        next.push_str(&format!(
            "; {} are left out: they are deleted, or a newer deployment has reached them",
            answer.left_out
        ));
    }
    next.push('.');
    if deployment.state() == v1::DeploymentState::Paused {
        next.push_str(&format!(
            " It is paused: `kernexctl deployment resume {}` lets them begin.",
            id
        ));
    }
    steer_result::print(&steer, Some(deployment), &next)
}
