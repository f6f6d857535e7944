//! `status`: the whole fleet in a few lines.

use kernex_proto::v1;

use super::Session;
use crate::{
    args::OutputArg,
    error::Failure,
    output::{Printer, counted, deployment::DeploymentView, emit, print_note, status::StatusView},
};

pub(crate) async fn run(session: &Session, limit: u32, output: OutputArg) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::GetFleetSummaryRequest { limit };
    let answer = client
        .fleet()
        .get_fleet_summary(request)
        .await?
        .into_inner();
    let view = StatusView::from(answer);
    let printer = Printer::new(output.output);
    printer.one(&view)?;
    if !printer.for_people() {
        return Ok(());
    }
    show(printer, "Open", &view.open())?;
    if view.open_left() > 0 {
        let left = counted(view.open_left(), "open deployment");
        print_note(&format!(
            "{left} more: `kernexctl deployment list --state open`."
        ));
    }
    show(printer, "Failed last", &view.failed())
}

fn show(printer: Printer, title: &str, deployments: &[DeploymentView]) -> Result<(), Failure> {
    if deployments.is_empty() {
        return Ok(());
    }
    emit(&format!("\n{title}:\n"))?;
    printer.list(deployments)
}
