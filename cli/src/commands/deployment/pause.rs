//! `deployment pause`

use kernex_proto::v1;

use super::{resolve::resolve, steer_result};
use crate::{args::deployment::SteerArgs, client::request_id, commands::Session, error::Failure};

pub(super) async fn run(
    session: &Session,
    args: SteerArgs,
    reason: Option<String>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let id = resolve(&client, &args.id).await?;
    let request = v1::PauseDeploymentRequest {
        deployment_id: id,
        reason: reason.unwrap_or_default(),
        request_id: request_id(),
    };
    let answer = client
        .rollouts()
        .pause_deployment(request)
        .await?
        .into_inner();
    let next = format!(
        "Devices finish what they have begun. Continue with `kernexctl deployment resume {}`.",
        args.id
    );
    steer_result::print(&args, answer.deployment, &next)
}
