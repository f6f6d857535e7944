//! `deployment watch`: follows a deployment until it is finished, over lost connections and
//! restarts of the server.
//!
//! Some waits only an operator can end. On a terminal the watch says so and goes on. Elsewhere it
//! ends with an exit code of its own, so that no pipeline hangs.

use std::{collections::BTreeMap, io::IsTerminal as _, mem, time::Duration};

use kernex_proto::v1;
use tokio::time::timeout;
use tonic::Status;

use super::{
    finished::Finished,
    resolve::{called, resolve},
};
use crate::{
    args::OutputArg,
    client::Client,
    commands::{Session, reconnect::ReconnectPolicy},
    error::{Exit, Failure},
    interrupt::asked_to_stop,
    output::{
        Printer,
        deployment::DeploymentView,
        printable,
        progress::Watching,
        reader,
        target::{TargetView, first_by_name, is_closed},
    },
};

/// How long a deployment has to wait for an operator before the watch ends. Changes that were made
/// before may still arrive.
const SETTLED: Duration = Duration::from_secs(2);

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

/// Follows until finished, `limit` or a signal, and prints the result; for programs each change as
/// a line.
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

/// Follows until finished, `limit` or a signal. The end of the watch does not end the deployment.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    limit: Option<Duration>,
) -> Result<Finished, Failure> {
    let finished = follow_until(client, id, limit, Watching::new()).await?;
    Ok(finished.with_marks(client).await)
}

async fn follow_until(
    client: &Client,
    id: &str,
    limit: Option<Duration>,
    mut watching: Watching,
) -> Result<Finished, Failure> {
    let wait = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut follow = Follow {
        client,
        id,
        called: id.to_owned(),
        has_operator: std::io::stdout().is_terminal(),
        targets: BTreeMap::new(),
        asked: String::new(),
        reconnect: ReconnectPolicy::new(),
    };
    let result = tokio::select! {
        result = follow.follow_to_end(&mut watching) => result,
        () = wait => Err(Failure::new(
            Exit::TimedOut,
            unfinished(&follow.called, &follow.targets),
            resume(&follow.called),
        )),
        () = reader::gone() => Err(unread(&follow.called)),
        signal = asked_to_stop() => Err(Failure::new(
            signal.exit(),
            "no longer watching",
            resume(&follow.called),
        )),
    };
    watching.finish();
    result
}

fn resume(called: &str) -> String {
    format!("The deployment continues. Watch it with `kernexctl deployment watch {called}`.")
}

/// Why waiting longer was not worth it: who is not done, and why.
fn unfinished(id: &str, targets: &BTreeMap<String, v1::Target>) -> String {
    let open = targets.values().filter(|target| !is_closed(target.state()));
    match first_by_name(open) {
        waiting if waiting.is_empty() => format!("the deployment {id} is not finished yet"),
        waiting => format!("the deployment {id} is not finished yet: {waiting}"),
    }
}

/// Nobody reads what is printed.
fn unread(called: &str) -> Failure {
    Failure::new(
        Exit::Interrupted,
        "no longer watching: nobody reads the output",
        resume(called),
    )
}

/// One watch over all its streams.
struct Follow<'a> {
    client: &'a Client,
    id: &'a str,
    /// What commands take for it: its name, once that is known, or its id.
    called: String,
    /// Somebody may sit at the terminal and decide.
    has_operator: bool,
    targets: BTreeMap<String, v1::Target>,
    /// What the operator was asked last.
    asked: String,
    reconnect: ReconnectPolicy,
}

impl Follow<'_> {
    async fn follow_to_end(&mut self, watching: &mut Watching) -> Result<Finished, Failure> {
        loop {
            let ended = match self.stream(watching).await? {
                Ok(Some(deployment)) => {
                    let targets = mem::take(&mut self.targets);
                    return Ok(Finished {
                        deployment,
                        targets: by_device(targets),
                    });
                }
                // The server ended the stream early, for example because it stops.
                Ok(None) => None,
                Err(status) => Some(status),
            };
            let wait = self.reconnect.wait(ended, |text| watching.print_note(text));
            wait.await?;
        }
    }

    /// Follows one stream; `None` when it ended before the deployment did.
    async fn stream(
        &mut self,
        watching: &mut Watching,
    ) -> Result<Result<Option<v1::Deployment>, Status>, Failure> {
        let request = v1::WatchDeploymentRequest {
            deployment_id: self.id.to_owned(),
        };
        let mut changes = match self.client.deployments().watch_deployment(request).await {
            Ok(changes) => changes.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        // Set while it waits for an operator and nobody is here.
        let mut undecided: Option<Failure> = None;
        loop {
            let next = match undecided.take() {
                None => {
                    let say = |text: &str| watching.print_note(text);
                    self.reconnect.next(self.client, &mut changes, say).await
                }
                Some(failure) => match timeout(SETTLED, changes.message()).await {
                    Ok(next) => next,
                    Err(_) => return Err(failure),
                },
            };
            let change = match next {
                Ok(Some(change)) => change,
                Ok(None) => return Ok(Ok(None)),
                Err(status) => return Ok(Err(status)),
            };
            for target in change.targets {
                // After a reconnect the server sends all targets again.
                if self.targets.get(&target.id) != Some(&target) {
                    if !watching.target(&TargetView::from(target.clone()))? {
                        return Err(unread(&self.called));
                    }
                    self.targets.insert(target.id.clone(), target);
                }
            }
            let Some(deployment) = change.deployment else {
                continue;
            };
            called(&deployment).clone_into(&mut self.called);
            if !watching.deployment(&DeploymentView::from(deployment.clone()))? {
                return Err(unread(&self.called));
            }
            if deployment.state() == v1::DeploymentState::Finished {
                return Ok(Ok(Some(deployment)));
            }
            watching.waiting(&self.targets);
            undecided = self.ask(&deployment, watching);
        }
    }

    /// On a terminal, says once for each wait that an operator has to decide. Elsewhere returns the
    /// failure that the watch ends with.
    fn ask(&mut self, deployment: &v1::Deployment, watching: &Watching) -> Option<Failure> {
        let Some(failure) = waits_for_operator(deployment) else {
            self.asked.clear();
            return None;
        };
        if !self.has_operator {
            return Some(failure);
        }
        if failure.message != self.asked {
            watching.print_note(&failure.to_string());
            self.asked = failure.message;
        }
        None
    }
}

/// The failure to report when nothing more happens until an operator decides. None while devices
/// are in progress: they go on without an operator and may finish the deployment.
fn waits_for_operator(deployment: &v1::Deployment) -> Option<Failure> {
    let counts = deployment.counts.unwrap_or_default();
    if counts.in_progress > 0 {
        return None;
    }
    let id = called(deployment);
    let (why, next) = match deployment.state() {
        v1::DeploymentState::Paused => (
            format!("is paused: {}", printable(&deployment.paused_reason)),
            format!(
                "Go on with `kernexctl deployment resume {id}`, try again what failed with `deployment retry {id}`, \
                 or end it with `deployment rollback {id}` or `deployment cancel {id}`."
            ),
        ),
        v1::DeploymentState::AwaitingApproval => (
            format!("waits for approval of phase {}", deployment.phase + 1),
            format!(
                "Open it with `kernexctl deployment approve {id}`, or end the deployment with `deployment cancel {id}`."
            ),
        ),
        _ => return None,
    };
    Some(Failure::new(
        Exit::NeedsOperator,
        format!(
            "the deployment of {} {why}; {}",
            deployment.bundle,
            DeploymentView::from(deployment.clone()).sentence()
        ),
        next,
    ))
}

fn by_device(targets: BTreeMap<String, v1::Target>) -> Vec<TargetView> {
    let mut views: Vec<TargetView> = targets.into_values().map(TargetView::from).collect();
    views.sort_by(|a, b| a.device().cmp(b.device()));
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wait_that_an_operator_has_to_end_ends_a_watch() {
        use v1::DeploymentState as S;
        let deployment = |state: S, in_progress| v1::Deployment {
            id: "d1".into(),
            bundle: "app:1".into(),
            state: state.into(),
            phase: 1,
            paused_reason: "phase 1: 1 of 1 failed".into(),
            counts: Some(v1::TargetCounts {
                total: 3,
                in_progress,
                ..Default::default()
            }),
            ..Default::default()
        };
        for state in [S::Scheduled, S::Active, S::Stopping, S::Finished] {
            assert_eq!(waits_for_operator(&deployment(state, 0)), None, "{state:?}");
        }
        for (state, why, next) in [
            (S::Paused, "1 of 1 failed", "kernexctl deployment resume d1"),
            (
                S::AwaitingApproval,
                "approval of phase 2",
                "kernexctl deployment approve d1",
            ),
        ] {
            assert_eq!(waits_for_operator(&deployment(state, 1)), None, "{state:?}");
            let failure = waits_for_operator(&deployment(state, 0)).unwrap();
            assert_eq!(failure.exit.code(), 8);
            assert!(failure.message.contains(why), "{failure}");
            assert!(failure.next.contains(next), "{failure}");
        }
    }

    #[test]
    fn a_watch_that_gives_up_names_who_is_not_done_and_why() {
        let target = |name: &str, state: v1::AttemptState, why: v1::WaitReason| v1::Target {
            id: name.into(),
            device_name: name.into(),
            state: state.into(),
            waits_for: why.into(),
            ..Default::default()
        };
        let mut away = target("edge-6", v1::AttemptState::Pending, v1::WaitReason::Device);
        away.waits_detail = "cut".into();
        let targets = [
            target(
                "edge-1",
                v1::AttemptState::Succeeded,
                v1::WaitReason::Unspecified,
            ),
            target(
                "edge-2",
                v1::AttemptState::Running,
                v1::WaitReason::Unspecified,
            ),
            away,
        ];
        let targets = targets.map(|target| (target.id.clone(), target));
        assert_eq!(
            unfinished("d1", &BTreeMap::from(targets)),
            "the deployment d1 is not finished yet: edge-2 (running), edge-6 (its device is away: cut)"
        );
        assert_eq!(
            unfinished("d1", &BTreeMap::new()),
            "the deployment d1 is not finished yet"
        );
    }
}
