//! What a light agent remembers over its connections, in memory: it never takes an attempt twice
//! and forgets no report before it is acknowledged.

use std::collections::BTreeMap;

use kernex_proto::v1::{
    Accepted, Ack, AttemptRef, AttemptState, Command, Deploy, HeldAttempt, Outcome, Report, report,
};

use super::DeployBehaviour;
use crate::raw_agent::succeeded;

/// An attempt's name: target, number.
type Key = (String, u32);

#[derive(Debug, Default)]
pub(super) struct Journal {
    seq: u64,
    /// Number of the newest outcome.
    outcome: u64,
    attempts: BTreeMap<Key, Attempt>,
    unacknowledged: BTreeMap<u64, Report>,
}

#[derive(Debug)]
struct Attempt {
    state: AttemptState,
}

/// Which report was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcknowledgedReport {
    Accepted,
    Outcome,
}

impl Journal {
    /// Accepts a deploy; `None` when it is a repetition.
    pub(super) fn take(
        &mut self,
        command: &Command,
        deploy: &Deploy,
        deploys: DeployBehaviour,
    ) -> Option<Vec<Report>> {
        let reference = command.attempt.clone()?;
        let key = (reference.target_id.clone(), reference.attempt);
        if self.attempts.contains_key(&key) {
            return None;
        }
        let (events, state) = match deploys {
            DeployBehaviour::Ignore => return Some(Vec::new()),
            DeployBehaviour::Accept => (
                vec![report::Event::Accepted(Accepted {})],
                AttemptState::Accepted,
            ),
            DeployBehaviour::Succeed => (
                vec![
                    report::Event::Accepted(Accepted {}),
                    report::Event::Outcome(succeeded(deploy)),
                ],
                AttemptState::Succeeded,
            ),
        };
        self.attempts.insert(key, Attempt { state });
        Some(self.write(&reference, events))
    }

    /// Ends an attempt that is to be stopped.
    pub(super) fn stop(&mut self, reference: &AttemptRef) -> Vec<Report> {
        let key = (reference.target_id.clone(), reference.attempt);
        let known = self.attempts.get(&key);
        if known.is_some_and(|attempt| attempt.state != AttemptState::Accepted) {
            // Its outcome is on its way, or was acknowledged.
            return Vec::new();
        }
        let state = AttemptState::Cancelled;
        self.attempts.insert(key, Attempt { state });
        let outcome = Outcome {
            state: state.into(),
            ..Outcome::default()
        };
        self.write(reference, vec![report::Event::Outcome(outcome)])
    }

    /// Forgets an acknowledged report.
    pub(super) fn acknowledge(&mut self, ack: &Ack) -> Option<AcknowledgedReport> {
        let report = self.unacknowledged.remove(&ack.seq)?;
        match report.event? {
            report::Event::Accepted(_) => Some(AcknowledgedReport::Accepted),
            report::Event::Outcome(_) => Some(AcknowledgedReport::Outcome),
            _ => None,
        }
    }

    /// Everything that is open or whose outcome is unacknowledged.
    pub(super) fn held(&self) -> Vec<HeldAttempt> {
        let waiting = |key: &Key| {
            self.unacknowledged.values().any(|report| {
                let about = report.attempt.as_ref();
                about.is_some_and(|about| about.target_id == key.0 && about.attempt == key.1)
            })
        };
        self.attempts
            .iter()
            .filter(|(key, attempt)| attempt.state == AttemptState::Accepted || waiting(key))
            .map(|((target_id, number), attempt)| HeldAttempt {
                attempt: Some(AttemptRef {
                    target_id: target_id.clone(),
                    attempt: *number,
                }),
                state: attempt.state.into(),
            })
            .collect()
    }

    /// Reports to send again in a new session, oldest first.
    pub(super) fn unacknowledged(&self) -> Vec<Report> {
        self.unacknowledged.values().cloned().collect()
    }

    fn write(&mut self, attempt: &AttemptRef, events: Vec<report::Event>) -> Vec<Report> {
        let reports = events.into_iter().map(|event| {
            self.seq += 1;
            let is_outcome = matches!(event, report::Event::Outcome(_));
            let previous_outcome_seq = is_outcome.then_some(self.outcome);
            if is_outcome {
                self.outcome = self.seq;
            }
            let report = Report {
                attempt: Some(attempt.clone()),
                seq: self.seq,
                event: Some(event),
                traceparent: String::new(),
                previous_outcome_seq,
            };
            self.unacknowledged.insert(self.seq, report.clone());
            report
        });
        reports.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> (Command, Deploy) {
        let command = Command {
            attempt: Some(AttemptRef {
                target_id: "t".into(),
                attempt: 1,
            }),
            ..Command::default()
        };
        (command, Deploy::default())
    }

    #[test]
    fn an_attempt_is_accepted_once_and_held_until_its_outcome_is_acknowledged() {
        let mut journal = Journal::default();
        let (command, deploy) = command();
        let reports = journal.take(&command, &deploy, DeployBehaviour::Succeed);
        assert_eq!(reports.expect("is new").len(), 2);
        assert!(
            journal
                .take(&command, &deploy, DeployBehaviour::Succeed)
                .is_none()
        );
        assert_eq!(journal.held().len(), 1);
        let ack = |seq| Ack {
            seq,
            ..Ack::default()
        };
        assert_eq!(
            journal.acknowledge(&ack(1)),
            Some(AcknowledgedReport::Accepted)
        );
        assert_eq!(journal.unacknowledged().len(), 1);
        assert_eq!(
            journal.acknowledge(&ack(2)),
            Some(AcknowledgedReport::Outcome)
        );
        assert_eq!(journal.acknowledge(&ack(2)), None);
        assert!(journal.held().is_empty());
        assert!(
            journal
                .take(&command, &deploy, DeployBehaviour::Succeed)
                .is_none()
        );
    }

    #[test]
    fn a_stop_ends_a_running_attempt_and_one_that_never_came() {
        let mut journal = Journal::default();
        let (command, deploy) = command();
        journal.take(&command, &deploy, DeployBehaviour::Accept);
        let running = command.attempt.expect("is there");
        assert_eq!(journal.stop(&running).len(), 1);
        assert!(journal.stop(&running).is_empty());
        let unseen = AttemptRef {
            target_id: "u".into(),
            attempt: 1,
        };
        assert_eq!(journal.stop(&unseen).len(), 1);
    }
}
