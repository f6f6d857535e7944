//! `output`: what the scripts of the last run printed, whether it succeeded or not.

use kernex_proto::v1;

use super::{Session, deployment::resolve::resolve, present};
use crate::{
    args::script_output::ScriptOutputArgs,
    client::{Client, pages},
    error::Failure,
    output::{Printer, Time, emit, plural, print_note, script_output::ScriptOutputView},
};

pub(crate) async fn run(session: &Session, args: ScriptOutputArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let deployment = match args.deployment {
        Some(text) => resolve(&client, &text).await?,
        None => String::new(),
    };
    let mut targets = match args.device {
        Some(device) => vec![one(&client, device, deployment).await?],
        None => of_deployment(&client, &deployment).await?,
    };
    let left = targets.len().saturating_sub(args.limit as usize);
    targets.truncate(args.limit as usize);
    let views: Vec<ScriptOutputView> = targets.into_iter().map(Into::into).collect();
    let printer = Printer::new(args.output.output);
    if args.raw {
        for view in &views {
            emit(&view.raw())?;
        }
    } else if printer.for_people() {
        let now = Time::now();
        let texts: Vec<String> = views.iter().map(|view| view.text(now)).collect();
        emit(&texts.join("\n"))?;
    } else {
        printer.list(&views)?;
    }
    if left > 0 {
        let devices = plural(left as u64, "device");
        print_note(&format!(
            "{left} more {devices}; a higher `--limit` prints them."
        ));
    }
    Ok(())
}

async fn one(
    client: &Client,
    device: String,
    deployment_id: String,
) -> Result<v1::Target, Failure> {
    let request = v1::GetTargetRequest {
        device,
        deployment_id,
    };
    let answer = client.deployments().get_target(request).await?.into_inner();
    present(answer.target, "target")
}

/// Those that failed first, then by name.
async fn of_deployment(client: &Client, id: &str) -> Result<Vec<v1::Target>, Failure> {
    let mut targets = pages(None, |page_size, page_token| {
        let request = v1::ListTargetsRequest {
            deployment_id: id.to_owned(),
            page_size,
            page_token,
            ..Default::default()
        };
        async move {
            let page = client
                .deployments()
                .list_targets(request)
                .await?
                .into_inner();
            Ok((page.targets, page.next_page_token))
        }
    })
    .await?;
    targets.retain(|target| {
        let late = target.late.as_ref();
        !target.output_tail.is_empty() || late.is_some_and(|late| !late.output_tail.is_empty())
    });
    targets.sort_by_cached_key(|target| {
        let succeeded = target.state() == v1::AttemptState::Succeeded;
        (succeeded, target.device_name.clone())
    });
    if targets.is_empty() {
        print_note("No device has printed anything in this deployment.");
    }
    Ok(targets)
}
