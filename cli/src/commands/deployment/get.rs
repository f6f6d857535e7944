//! `deployment get`

use kernex_proto::v1;

use super::{finished, resolve::resolve};
use crate::{
    args::{OutputArg, deployment::TargetFilterArgs, listing::ListArgs},
    client::{Client, Listed, Page, counted_pages},
    commands::{Session, present},
    error::Failure,
    output::{
        Printer, counted, deployment::DeploymentView, emit, listing::Listing, print_note,
        target::TargetView,
    },
};

/// Up to this many targets are all printed in a table.
const FEW: u32 = 50;
/// Of more targets, this many are printed: those that failed or are under way.
const NOTABLE: u32 = 20;

/// Shows one deployment with its targets.
pub(super) async fn run(
    session: &Session,
    id: String,
    filter: TargetFilterArgs,
    list: ListArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let id = resolve(&client, &id).await?;
    let request = v1::GetDeploymentRequest {
        deployment_id: id.clone(),
    };
    let answer = client
        .deployments()
        .get_deployment(request)
        .await?
        .into_inner();
    let view = DeploymentView::from(present(answer.deployment, "deployment")?);
    let printer = Printer::new(output.output);
    let filter = filter.filter();
    let everything = filter.is_none() && list.limit.is_none() && list.sort.is_none();
    if printer.for_people() && everything && view.targets_in_all() > u64::from(FEW) {
        return show_notable(&client, &id, &view, printer).await;
    }
    let listing = Listing::new(list, output)
        .without_usual()
        .narrowed(filter.is_some());
    let found = targets(&client, &id, listing.fetched(), filter).await?;
    if !printer.for_people() {
        let (targets, _) = listing.chosen(views(found.items), found.total)?;
        return printer.one(&view.with_targets(targets));
    }
    show_itself(&view, printer)?;
    let shown = listing.print(views(found.items), found.total, "target")?;
    if printer.wide() {
        finished::print_output(&shown);
    }
    Ok(())
}

fn show_itself(view: &DeploymentView, printer: Printer) -> Result<(), Failure> {
    printer.one(view)?;
    emit("\n")?;
    let phases = view.phases();
    if !phases.is_empty() {
        printer.list(&phases)?;
        emit("\n")?;
    }
    Ok(())
}

/// Of many targets, shows those that failed or are under way.
async fn show_notable(
    client: &Client,
    id: &str,
    view: &DeploymentView,
    printer: Printer,
) -> Result<(), Failure> {
    let states = [
        v1::AttemptState::Failed,
        v1::AttemptState::Expired,
        v1::AttemptState::Running,
        v1::AttemptState::Accepted,
    ];
    let filter = v1::TargetFilter {
        states: states.map(i32::from).to_vec(),
        ..v1::TargetFilter::default()
    };
    let found = targets(client, id, Some(NOTABLE), Some(filter)).await?;
    show_itself(view, printer)?;
    let shown = views(found.items);
    if !shown.is_empty() {
        printer.list(&shown)?;
    }
    let all = view.targets_in_all();
    let notable = found.total.unwrap_or(shown.len() as u64);
    print_note(&left_out(all, notable, shown.len() as u64));
    if printer.wide() {
        finished::print_output(&shown);
    }
    Ok(())
}

/// What is said of the targets that are not shown.
fn left_out(all: u64, notable: u64, shown: u64) -> String {
    const HOW: &str = "Choose with `--state`, `--reason` or `--device`; `--limit 0` prints all.";
    let targets = counted(all, "target");
    match (notable, shown) {
        (0, _) => format!("None of the {targets} failed or is under way. {HOW}"),
        (notable, shown) if notable > shown => format!(
            "Shown are {shown} of the {notable} that failed or are under way, of {targets}. {HOW}"
        ),
        (notable, _) => {
            format!("Shown are the {notable} that failed or are under way, of {targets}. {HOW}")
        }
    }
}

async fn targets(
    client: &Client,
    id: &str,
    limit: Option<u32>,
    filter: Option<v1::TargetFilter>,
) -> Result<Listed<v1::Target>, Failure> {
    counted_pages(limit, filter.is_some(), |page| {
        let request = v1::ListTargetsRequest {
            deployment_id: id.to_owned(),
            page_size: page.size,
            page_token: page.token,
            filter: filter.clone(),
            count: page.count,
        };
        async move {
            let page = client
                .deployments()
                .list_targets(request)
                .await?
                .into_inner();
            Ok(Page {
                items: page.targets,
                next: page.next_page_token,
                total: page.total,
            })
        }
    })
    .await
}

/// Views in the order of device names.
fn views(targets: Vec<v1::Target>) -> Vec<TargetView> {
    let mut views: Vec<TargetView> = targets.into_iter().map(TargetView::from).collect();
    views.sort_by(|a, b| a.device().cmp(b.device()));
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_many_targets_is_told() {
        let said = |notable, shown| left_out(30_001, notable, shown);
        assert!(said(0, 0).starts_with("None of the 30001 targets failed or is under way. "));
        assert!(said(3, 3).starts_with("Shown are the 3 that failed or are under way, of 30001 "));
        assert!(said(100, 20).starts_with("Shown are 20 of the 100 that failed "));
    }
}
