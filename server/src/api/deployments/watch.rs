//! One deployment, watched: all targets first, then changes, until it is finished.
//!
//! The stream reads the store after each change, and from time to time. It keeps only a fingerprint
//! of each target that it has sent.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher as _},
    time::Duration,
};

use kernex_proto::{
    ids::{DeploymentId, TargetId},
    v1,
};
use prost::Message as _;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::{Awaited, await_change, feed::WatcherPermit, wire::fitting::parts},
    backoff::leave_alone,
    clock::Timestamp,
    domain::rollout::DeploymentState,
    error::going_away,
    store::{Deployment, MAX_PAGE, Page, StoreError, Target, TargetFilter, View},
};

/// Longest pause between two reads, to spare the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A transaction is stamped before it commits, so its rows may appear this long after newer ones.
const OVERLAP: Duration = Duration::from_secs(2);

/// Watches a deployment, which has to exist.
pub(super) async fn follow(
    view: View,
    id: DeploymentId,
    permit: WatcherPermit,
    draining: CancellationToken,
) -> Result<impl Stream<Item = Result<v1::WatchDeploymentResponse, Status>> + Send, Status> {
    // Subscribed before the first read, so that no change falls between the two.
    let mut changes = view.changes();
    let mut deployment = view.get_deployment(id).await?;
    Ok(async_stream::try_stream! {
        let _permit = permit;
        let mut shown = Shown::default();
        // The deployment is always read before its targets. So an answer that shows it finished
        // shows every target closed.
        let mut targets = shown.news(all_targets(&view, id).await?);
        loop {
            let finished = deployment.state == DeploymentState::Finished;
            for message in messages(deployment.clone(), targets) {
                yield message;
            }
            if finished {
                return;
            }
            targets = loop {
                match await_change(&mut changes, &draining).await {
                    Awaited::Change => {}
                    Awaited::Stop => Err(going_away())?,
                }
                tokio::time::sleep(shown.pause()).await;
                changes.mark_unchanged();
                let asked = Instant::now();
                let now = view.get_deployment(id).await?;
                let found = if now.state == DeploymentState::Finished {
                    // The last answer is complete even if a clock jumped meanwhile.
                    all_targets(&view, id).await?
                } else {
                    view.changed_targets(id, shown.newest.minus(OVERLAP)).await?
                };
                shown.cost = asked.elapsed();
                let news = shown.news(found);
                if now != deployment || !news.is_empty() {
                    deployment = now;
                    break news;
                }
            };
        }
    })
}

/// What the watcher has been sent.
#[derive(Debug, Default)]
struct Shown {
    targets: HashMap<TargetId, u64>,
    newest: Timestamp,
    /// How long the last read took.
    cost: Duration,
}

impl Shown {
    /// The pause before the next read: a watcher uses the store for at most a quarter of the time.
    fn pause(&self) -> Duration {
        leave_alone(self.cost, LONGEST_PAUSE)
    }

    /// Targets that differ from what was sent before.
    fn news(&mut self, targets: Vec<Target>) -> Vec<v1::Target> {
        let mut news = Vec::new();
        for target in targets {
            self.newest = self.newest.max(target.updated_at);
            let id = target.id;
            let message = v1::Target::from(target);
            let fingerprint = fingerprint(&message);
            if self.targets.insert(id, fingerprint) != Some(fingerprint) {
                news.push(message);
            }
        }
        news
    }
}

fn fingerprint(target: &v1::Target) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&target.encode_to_vec());
    hasher.finish()
}

async fn all_targets(view: &View, id: DeploymentId) -> Result<Vec<Target>, StoreError> {
    let mut targets = Vec::new();
    let mut page = Page::first(MAX_PAGE);
    let every = TargetFilter::default();
    loop {
        let paged = view.list_targets(id, &every, page).await?;
        targets.extend(paged.items);
        if paged.next.is_none() {
            return Ok(targets);
        }
        page = Page {
            size: MAX_PAGE,
            token: paged.next,
        };
    }
}

/// One message, or several where one would be larger than clients take. Only the last carries the
/// deployment: a client that sees it finished has every target.
fn messages(deployment: Deployment, targets: Vec<v1::Target>) -> Vec<v1::WatchDeploymentResponse> {
    let parts = parts(targets).into_iter();
    let mut messages: Vec<_> = parts
        .map(|targets| v1::WatchDeploymentResponse {
            deployment: None,
            targets,
        })
        .collect();
    if let Some(last) = messages.last_mut() {
        last.deployment = Some(deployment.into());
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{attempt::State, rollout::Counts};
    use kernex_proto::ids::{DeviceId, Digest};

    fn deployment() -> Deployment {
        Deployment {
            name: String::new(),
            id: DeploymentId::generate(),
            bundle: "hello:1.0".into(),
            digest: Some(Digest::of(b"")),
            state: DeploymentState::Finished,
            result: None,
            paused_reason: String::new(),
            counts: Counts::default(),
            created_by: "ada".into(),
            created_at: Timestamp(1),
            finished_at: None,
            revision: 1,
            rollout: None,
            phases: Vec::new(),
            phase: 0,
            schedule: None,
            opens_at: None,
            dynamic: None,
            rolls_back: None,
            order: crate::store::Order::default(),
            ended_reason: String::new(),
            rolled_back_by: None,
        }
    }

    fn target(id: TargetId, state: State, updated_at: i64, output: usize) -> Target {
        Target {
            id,
            deployment: DeploymentId::generate(),
            device: DeviceId(id.0),
            device_name: "edge-1".into(),
            bundle: "hello:1.0".into(),
            attempt: 1,
            state,
            progress: None,
            reason: None,
            message: String::new(),
            exit_code: None,
            output_tail: "x".repeat(output),
            output_marks: Vec::new(),
            stop_requested: false,
            updated_at: Timestamp(updated_at),
            phase: 0,
            active_digest: String::new(),
            active_version: String::new(),
            opens_at: None,
            waiting: None,
            late: None,
            deferral: None,
        }
    }

    #[test]
    fn each_change_is_shown_once() {
        let mut shown = Shown::default();
        let first = target(TargetId::generate(), State::Sent, 5, 0);
        let second = target(TargetId::generate(), State::Sent, 9, 0);
        assert_eq!(shown.news(vec![first.clone(), second.clone()]).len(), 2);
        assert!(shown.news(vec![first.clone(), second]).is_empty());
        let moved = Target {
            state: State::Running,
            ..first
        };
        assert_eq!(shown.news(vec![moved]).len(), 1);
        assert_eq!(shown.newest, Timestamp(9));
    }

    #[test]
    fn only_the_last_of_several_messages_carries_the_deployment() {
        const TAIL: usize = 64 * 1024;
        let one = || target(TargetId::generate(), State::Failed, 1, TAIL).into();
        let few = messages(deployment(), vec![one()]);
        assert_eq!(few.len(), 1);
        assert!(few[0].deployment.is_some());
        let none = messages(deployment(), Vec::new());
        assert_eq!(none.len(), 1);
        let many = messages(deployment(), (0..100).map(|_| one()).collect());
        let with: Vec<_> = many.iter().map(|m| m.deployment.is_some()).collect();
        assert!(with.len() > 1, "100 tails of 64 KiB do not fit");
        assert_eq!(with.iter().position(|with| *with), Some(with.len() - 1));
        let shown: usize = many.iter().map(|m| m.targets.len()).sum();
        assert_eq!(shown, 100);
        assert!(many.iter().all(|m| m.encoded_len() < 4 * 1024 * 1024));
    }
}
