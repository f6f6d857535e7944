//! `deployment watch`: follows a deployment until it is finished, over lost connections and
//! restarts of the server.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::v1;
use tonic::Status;

use super::resolve::resolve;
use crate::{
    args::OutputArg,
    client::Client,
    commands::{Session, reconnect::ReconnectPolicy},
    error::{Exit, Failure},
    output::{
        Printer,
        deployment::DeploymentView,
        listing::counted,
        print_note, printable_lines,
        progress::Watching,
        target::{TargetView, failures},
    },
};

/// Follows a deployment that was created before.
pub(super) async fn run(
    session: &Session,
    id: &str,
    limit: Option<Duration>,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let id = &resolve(&client, id).await?;
    show(&client, id, limit, Printer::new(output.output)).await
}

/// A deployment that is finished.
pub(crate) struct Finished {
    deployment: v1::Deployment,
    targets: Vec<TargetView>,
}

/// Follows until finished, `limit` or Ctrl-C, and prints the result; for programs each change as a
/// line.
pub(crate) async fn show(
    client: &Client,
    id: &str,
    limit: Option<Duration>,
    printer: Printer,
) -> Result<(), Failure> {
    let finished = if printer.for_people() {
        follow(client, id, limit).await?
    } else {
        follow_until(client, id, limit, Watching::lines(printer)).await?
    };
    finished.report(printer)
}

/// Follows until finished, `limit` or Ctrl-C. The end of the watch does not end the deployment.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    limit: Option<Duration>,
) -> Result<Finished, Failure> {
    follow_until(client, id, limit, Watching::new()).await
}

async fn follow_until(
    client: &Client,
    id: &str,
    limit: Option<Duration>,
    mut watching: Watching,
) -> Result<Finished, Failure> {
    let resume =
        format!("The deployment continues. Watch it with `kernexctl deployment watch {id}`.");
    let wait = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = follow_to_end(client, id, &mut watching) => result,
        () = wait => Err(Failure::new(Exit::TimedOut, format!("the deployment {id} is not finished yet"), resume)),
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Interrupted, "no longer watching", resume)),
    };
    watching.finish();
    result
}

async fn follow_to_end(
    client: &Client,
    id: &str,
    watching: &mut Watching,
) -> Result<Finished, Failure> {
    let mut targets = BTreeMap::new();
    let mut reconnect = ReconnectPolicy::new();
    loop {
        let ended = match follow_stream(client, id, &mut targets, watching, &mut reconnect).await {
            Ok(Some(deployment)) => {
                return Ok(Finished {
                    deployment,
                    targets: by_device(targets),
                });
            }
            // The server ended the stream early, for example because it stops.
            Ok(None) => None,
            Err(status) => Some(status),
        };
        reconnect
            .wait(ended, |text| watching.print_note(text))
            .await?;
    }
}

/// Follows one stream; `None` when it ended before the deployment did.
async fn follow_stream(
    client: &Client,
    id: &str,
    targets: &mut BTreeMap<String, v1::Target>,
    watching: &mut Watching,
    reconnect: &mut ReconnectPolicy,
) -> Result<Option<v1::Deployment>, Status> {
    let request = v1::WatchDeploymentRequest {
        deployment_id: id.to_owned(),
    };
    let mut changes = client
        .deployments()
        .watch_deployment(request)
        .await?
        .into_inner();
    while let Some(change) = changes.message().await? {
        reconnect.note_message();
        for target in change.targets {
            // After a reconnect the server sends all targets again.
            if targets.get(&target.id) != Some(&target) {
                watching.target(&TargetView::from(target.clone()));
                targets.insert(target.id.clone(), target);
            }
        }
        if let Some(deployment) = change.deployment {
            watching.deployment(&DeploymentView::from(deployment.clone()));
            if deployment.state() == v1::DeploymentState::Finished {
                return Ok(Some(deployment));
            }
        }
    }
    Ok(None)
}

fn by_device(targets: BTreeMap<String, v1::Target>) -> Vec<TargetView> {
    let mut views: Vec<TargetView> = targets.into_values().map(TargetView::from).collect();
    views.sort_by(|a, b| a.device().cmp(b.device()));
    views
}

impl Finished {
    /// Prints the result for people; programs have read it as the last change. A deployment that
    /// did not succeed is a failure of this command, too.
    pub(crate) fn report(self, printer: Printer) -> Result<(), Failure> {
        let view = DeploymentView::from(self.deployment.clone());
        let sentence = view.sentence();
        if printer.for_people() {
            print_targets(printer, &self.deployment.id, &self.targets)?;
            print_output(&self.targets);
            for line in failures(&self.targets) {
                print_note(&line);
            }
        }
        let id = &self.deployment.id;
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
                "the deployment of {} {word}: {sentence}",
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
    const MOST: usize = 5;
    const LINES: usize = 20;
    for target in targets.iter().filter(|target| target.failed()).take(MOST) {
        let text = printable_lines(target.output_tail());
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let message = crate::output::printable(target.message());
        if lines.is_empty() && message.is_empty() {
            continue;
        }
        print_note(&format!("--- {}: {message}", target.device()));
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            print_note(&format!("    {line}"));
        }
    }
}
