//! `deployment resume`

use kernex_proto::v1;

use super::{resolve::resolve, steer_result};
use crate::{args::deployment::SteerArgs, client::request_id, commands::Session, error::Failure};

pub(super) async fn run(session: &Session, args: SteerArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let id = resolve(&client, &args.id).await?;
    let request = v1::ResumeDeploymentRequest {
        deployment_id: id.clone(),
        request_id: request_id(),
    };
    let answer = client
        .rollouts()
        .resume_deployment(request)
        .await?
        .into_inner();
    let next = format!("Watch it with `kernexctl deployment watch {id}`.");
    steer_result::print(&args, answer.deployment, &next)
}
