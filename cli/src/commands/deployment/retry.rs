//! `deployment retry`

use kernex_proto::v1;

use super::{resolve::resolve, steer_result};
use crate::{
    args::deployment::RetryArgs,
    client::request_id,
    commands::{Session, present},
    error::Failure,
    output::counted,
};

pub(super) async fn run(session: &Session, args: RetryArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let steer = args.steer;
    let id = resolve(&client, &steer.id).await?;
    let request = v1::RetryDeploymentRequest {
        deployment_id: id,
        devices: args.devices,
        request_id: request_id(),
    };
    let answer = client
        .rollouts()
        .retry_deployment(request)
        .await?
        .into_inner();
    let deployment = present(answer.deployment, "deployment")?;
    let verb = if answer.retried == 1 { "is" } else { "are" };
    let mut next = format!(
        "{} {verb} tried again",
        counted(answer.retried.into(), "device")
    );
    if answer.left_out > 0 {
        next.push_str(&format!(
            "; left out: {}, deleted or reached by a newer deployment",
            counted(answer.left_out.into(), "device")
        ));
    }
    next.push('.');
    if deployment.state() == v1::DeploymentState::Paused {
        next.push_str(&format!(
            " It is paused: `kernexctl deployment resume {}` lets them begin.",
            steer.id
        ));
    }
    steer_result::print(&steer, Some(deployment), &next)
}
