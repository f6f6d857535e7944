//! `deployment pause`, `resume`, `promote`, `retry`: an operator's hand on a deployment that goes on.

use kernex_proto::v1;

use super::super::{Session, present};
use crate::{
    args::deployment::{PromoteArgs, RetryArgs, SteerArgs},
    client::{Client, call, request_id, timed},
    error::Failure,
    output::{Printer, deployment::DeploymentView, say},
};

/// Begins nothing more.
pub(super) async fn pause(
    session: &Session,
    args: SteerArgs,
    reason: Option<String>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::PauseDeploymentRequest {
        deployment_id: args.id.clone(),
        reason: reason.unwrap_or_default(),
        request_id: request_id(),
    };
    let answer = call(
        "kernex.v1.RolloutService/PauseDeployment",
        client.rollouts().pause_deployment(timed(request)),
    )
    .await?;
    let next = format!(
        "What devices have begun goes on. Go on with `kernexctl deployment resume {}`.",
        args.id
    );
    show(&args, answer.deployment, &next)
}

/// Goes on.
pub(super) async fn resume(session: &Session, args: SteerArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::ResumeDeploymentRequest {
        deployment_id: args.id.clone(),
        request_id: request_id(),
    };
    let answer = call(
        "kernex.v1.RolloutService/ResumeDeployment",
        client.rollouts().resume_deployment(timed(request)),
    )
    .await?;
    let next = format!("Watch it with `kernexctl deployment watch {}`.", args.id);
    show(&args, answer.deployment, &next)
}

/// Opens the next phase, the one that is the next as this operator sees it.
pub(super) async fn promote(session: &Session, args: PromoteArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let steer = args.steer;
    let phase = match args.phase {
        Some(phase) => phase,
        None => next_phase(&client, &steer.id).await?,
    };
    let request = v1::PromoteDeploymentRequest {
        deployment_id: steer.id.clone(),
        phase,
        request_id: request_id(),
    };
    let answer = call(
        "kernex.v1.RolloutService/PromoteDeployment",
        client.rollouts().promote_deployment(timed(request)),
    )
    .await?;
    let next = format!("Phase {phase} is open.");
    show(&steer, answer.deployment, &next)
}

/// Naming the phase keeps two operators who decide at the same time from opening two.
async fn next_phase(client: &Client, id: &str) -> Result<u32, Failure> {
    let request = v1::GetDeploymentRequest {
        deployment_id: id.to_owned(),
    };
    let answer = call(
        "kernex.v1.DeploymentService/GetDeployment",
        client.deployments().get_deployment(timed(request)),
    )
    .await?;
    let deployment = present(answer.deployment, "deployment")?;
    let last = deployment.phases.len() as u32;
    // The server says best why there is no next one.
    Ok(if deployment.phase < last {
        deployment.phase + 1
    } else {
        0
    })
}

/// Tries failed devices again.
pub(super) async fn retry(session: &Session, args: RetryArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let steer = args.steer;
    let request = v1::RetryDeploymentRequest {
        deployment_id: steer.id.clone(),
        devices: args.devices,
        request_id: request_id(),
    };
    let answer = call(
        "kernex.v1.RolloutService/RetryDeployment",
        client.rollouts().retry_deployment(timed(request)),
    )
    .await?;
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
            steer.id
        ));
    }
    show(&steer, Some(deployment), &next)
}

fn show(args: &SteerArgs, deployment: Option<v1::Deployment>, next: &str) -> Result<(), Failure> {
    let printer = Printer::new(args.output.output);
    let deployment = present(deployment, "deployment")?;
    printer.list(&[DeploymentView::from(deployment)])?;
    if printer.for_people() {
        say(next);
    }
    Ok(())
}
