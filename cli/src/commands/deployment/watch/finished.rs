//! The end of `deployment watch`: prints what became of a finished deployment. One that did not
//! succeed is a failure of the command.

use kernex_proto::v1;

use super::super::resolve::called;
use crate::{
    client::Client,
    error::{Exit, Failure},
    output::{
        Printer, counted,
        deployment::DeploymentView,
        print_note, printable,
        script_output::ScriptOutputView,
        target::{TargetView, failures},
    },
};

/// Of so many failed devices the output is printed.
const MOST_OUTPUTS: usize = 5;

/// A deployment that is finished.
pub(crate) struct Finished {
    deployment: v1::Deployment,
    targets: Vec<TargetView>,
}

impl Finished {
    /// The deployment and its targets, in the order of the names of their devices.
    pub(super) fn new(
        deployment: v1::Deployment,
        targets: impl IntoIterator<Item = v1::Target>,
    ) -> Self {
        let mut targets: Vec<TargetView> = targets.into_iter().map(TargetView::from).collect();
        targets.sort_by(|a, b| a.device().cmp(b.device()));
        Self {
            deployment,
            targets,
        }
    }

    /// Reads the output of failed devices again: a watch leaves out which step and stream each part
    /// of it is of.
    pub(super) async fn with_marks(mut self, client: &Client) -> Self {
        let failed = self.targets.iter_mut();
        let failed = failed.filter(|target| target.failed() && !target.output_tail().is_empty());
        for target in failed.take(MOST_OUTPUTS) {
            let request = v1::GetTargetRequest {
                device: target.device_id().to_owned(),
                deployment_id: self.deployment.id.clone(),
            };
            // Without an answer the output is printed as it is.
            let answer = client.deployments().get_target(request).await;
            if let Some(marked) = answer.ok().and_then(|answer| answer.into_inner().target) {
                *target = TargetView::from(marked);
            }
        }
        self
    }

    /// Prints the result for people; programs have read it as the last change. A deployment that
    /// did not succeed is a failure of this command, too.
    pub(crate) fn report(self, printer: Printer) -> Result<(), Failure> {
        let view = DeploymentView::from(self.deployment.clone());
        let sentence = view.sentence();
        if printer.for_people() {
            print_targets(printer, called(&self.deployment), &self.targets)?;
            print_output(&self.targets);
            for line in failures(&self.targets) {
                print_note(&line);
            }
        }
        let id = called(&self.deployment);
        let mut why = String::new();
        if !self.deployment.ended_reason.is_empty() {
            why.push_str(&format!("; {}", printable(&self.deployment.ended_reason)));
        }
        if !self.deployment.rolled_back_by.is_empty() {
            why.push_str(&format!(
                "; rolled back by {}",
                self.deployment.rolled_back_by
            ));
        }
        let (word, next) = match self.deployment.result() {
            v1::DeploymentResult::Succeeded => {
                if printer.for_people() {
                    print_note(&format!(
                        "The deployment of {} succeeded: {sentence}.",
                        self.deployment.bundle
                    ));
                }
                return Ok(());
            }
            v1::DeploymentResult::Cancelled => (
                "was cancelled",
                format!("See `kernexctl deployment get {id} -o wide`."),
            ),
            v1::DeploymentResult::Superseded => (
                "was superseded",
                "A newer deployment took its place; see `kernexctl deployment list`.".to_owned(),
            ),
            v1::DeploymentResult::Failed | v1::DeploymentResult::Unspecified => (
                "failed",
                format!(
                    "See `kernexctl deployment get {id} -o wide`, correct the bundle and deploy a new version."
                ),
            ),
        };
        Err(Failure::new(
            Exit::DeploymentFailed,
            format!(
                "the deployment of {} {word}: {sentence}{why}",
                self.deployment.bundle
            ),
            next,
        ))
    }
}

/// Prints targets: all of a few, and of many those without success.
fn print_targets(printer: Printer, id: &str, targets: &[TargetView]) -> Result<(), Failure> {
    const FEW: usize = 10;
    if targets.len() <= FEW || printer.wide() {
        return printer.list(targets);
    }
    let failed = targets.iter().filter(|target| target.failed());
    let shown: Vec<TargetView> = failed.take(FEW).cloned().collect();
    if !shown.is_empty() {
        printer.list(&shown)?;
    }
    let left = counted((targets.len() - shown.len()) as u64, "target");
    print_note(&format!(
        "{left} not shown: `kernexctl deployment get {id} --limit 0` prints all."
    ));
    Ok(())
}

/// Prints the last output of failed devices, of a few at most.
pub(crate) fn print_output(targets: &[TargetView]) {
    const LINES: usize = 20;
    let failed = targets.iter().filter(|target| target.failed());
    for target in failed.take(MOST_OUTPUTS) {
        let lines = ScriptOutputView::from(target.wire().clone()).lines(LINES);
        let message = printable(target.message());
        if lines.is_empty() && message.is_empty() {
            continue;
        }
        print_note(&format!("{}: {message}", target.device()));
        for line in lines {
            print_note(&format!("    {line}"));
        }
    }
}
