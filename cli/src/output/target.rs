//! The devices within a deployment, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1::{self, AttemptState};
use serde::Serialize;

use super::{Field, Time, View, ago, bytes, printable, state_word, when, wire::Wire};

mod waits;

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct TargetView {
    target: Wire<v1::Target>,
}

impl From<v1::Target> for TargetView {
    fn from(target: v1::Target) -> Self {
        Self {
            target: Wire(target),
        }
    }
}

/// The word for a state of an attempt.
pub(super) fn state_of(state: i32) -> String {
    state_word!(AttemptState, state, "ATTEMPT_STATE_")
}

/// The word for why an attempt failed; empty when it did not.
pub(super) fn reason_of(reason: i32) -> String {
    state_word!(v1::FailureReason, reason, "FAILURE_REASON_")
}

/// ": script_failed (exit code 3)", or what there is of it.
fn cause(reason: &str, exit_code: Option<i32>) -> String {
    let mut text = String::new();
    if !reason.is_empty() {
        text.push_str(&format!(": {reason}"));
    }
    if let Some(code) = exit_code.filter(|code| *code != 0) {
        text.push_str(&format!(" (exit code {code})"));
    }
    text
}

/// "then failed late: script_failed (exit code 3)"
fn late(outcome: &v1::LateOutcome) -> String {
    let cause = cause(&reason_of(outcome.reason), outcome.exit_code);
    format!("then {} late{cause}", state_of(outcome.state))
}

impl TargetView {
    pub(crate) fn device(&self) -> &str {
        &self.target.device_name
    }

    fn state(&self) -> String {
        state_of(self.target.state)
    }

    fn reason(&self) -> String {
        reason_of(self.target.reason)
    }

    /// What it is doing, while running.
    fn step(&self) -> String {
        state_word!(v1::Step, self.progress().step, "STEP_")
    }

    fn progress(&self) -> v1::Progress {
        self.target.progress.unwrap_or_default()
    }

    /// Whether it ended without success.
    pub(crate) fn failed(&self) -> bool {
        self.closed() && self.target.state() != AttemptState::Succeeded
    }

    /// Whether nothing more will happen to it.
    pub(crate) fn closed(&self) -> bool {
        is_closed(self.target.state())
    }

    /// "running script"; and of one that has not begun also what it waits for: "pending: its device
    /// is away".
    pub(crate) fn standing(&self) -> String {
        let sentence = self.sentence();
        if self.closed() || self.at_work() {
            return sentence;
        }
        match waits::sentence(&self.target, Time::now()) {
            waits if waits.is_empty() => sentence,
            waits => format!("{sentence}: {waits}"),
        }
    }

    /// What it does, or what it waits for.
    pub(crate) fn why_open(&self, now: Time) -> String {
        let detail = self.detail(now);
        if self.at_work() || detail.is_empty() {
            self.sentence()
        } else {
            detail
        }
    }

    /// Whether the device has begun.
    pub(crate) fn at_work(&self) -> bool {
        is_at_work(self.target.state())
    }

    /// Bytes of the bundle that are on the device, while it is fetched.
    pub(crate) fn downloaded(&self) -> Option<u64> {
        let progress = self.progress();
        (progress.step() == v1::Step::Download).then_some(progress.bytes_done)
    }

    /// State and step, without the numbers that change all the time.
    pub(crate) fn phase(&self) -> String {
        let stopped = if self.progress().stopped {
            " stopped"
        } else {
            ""
        };
        format!("{} {}{stopped}", self.state(), self.step())
    }

    pub(crate) fn device_id(&self) -> &str {
        &self.target.device_id
    }

    /// As the server sent it.
    pub(crate) fn wire(&self) -> &v1::Target {
        &self.target
    }

    /// What the script printed last.
    pub(crate) fn output_tail(&self) -> &str {
        &self.target.output_tail
    }

    /// What went wrong, in words.
    pub(crate) fn message(&self) -> &str {
        &self.target.message
    }

    /// What a pre hook that asked for time said, and when it runs again; none unless it waits for
    /// that.
    fn deferral(&self) -> Option<&v1::TargetDeferral> {
        let deferral = self.target.deferral.as_ref();
        deferral.filter(|_| self.target.state() == AttemptState::Deferred)
    }

    /// "running download, 1.0 MiB of 2.0 MiB", "failed: script_failed (exit code 3)".
    pub(crate) fn sentence(&self) -> String {
        let (target, progress, step) = (&self.target, self.progress(), self.step());
        let mut text = self.state();
        if target.state() == AttemptState::Running && !step.is_empty() {
            text = match step.as_str() {
                "rollback" => "going back".to_owned(),
                step => format!("running {step}"),
            };
            if progress.bytes_total > 0 {
                text.push_str(&format!(
                    ", {} of {}",
                    bytes(progress.bytes_done),
                    bytes(progress.bytes_total)
                ));
            }
        }
        text.push_str(&cause(&self.reason(), target.exit_code));
        if progress.stopped {
            text.push_str(", stopped");
        } else if target.stop_requested {
            text.push_str(", asked to stop");
        }
        if target.state() == AttemptState::Succeeded && !target.message.is_empty() {
            text.push_str(&format!(": {}", target.message));
        }
        if let Some(deferral) = self.deferral().filter(|said| !said.message.is_empty()) {
            text.push_str(&format!(": {}", deferral.message));
        }
        match &target.late {
            Some(outcome) => text.push_str(&format!(", {}", late(outcome))),
            // An older server does not send the outcome.
            None if target.late_outcome => text.push_str(", with a late outcome"),
            None => {}
        }
        text
    }

    /// The sentence without the state: what it does, why it failed, what it waits for.
    fn detail(&self, now: Time) -> String {
        let (state, sentence) = (self.state(), self.sentence());
        let detail = sentence
            .strip_prefix(&state)
            .unwrap_or(&sentence)
            .trim_start_matches([':', ',', ' ']);
        let detail = match detail {
            "" => waits::sentence(&self.target, now),
            detail => detail.to_owned(),
        };
        match self.deferral().and_then(|said| Time::from_wire(said.until)) {
            Some(until) => {
                let comma = if detail.is_empty() { "" } else { ", " };
                format!("{detail}{comma}again {}", when(until, now))
            }
            None => detail,
        }
    }
}

/// Whether nothing more happens to an attempt in this state.
pub(crate) const fn is_closed(state: AttemptState) -> bool {
    matches!(
        state,
        AttemptState::Succeeded
            | AttemptState::Failed
            | AttemptState::Expired
            | AttemptState::Cancelled
            | AttemptState::Superseded
    )
}

/// Whether a device has begun and not ended.
pub(crate) const fn is_at_work(state: AttemptState) -> bool {
    matches!(
        state,
        AttemptState::Accepted | AttemptState::Running | AttemptState::Deferred
    )
}

/// The first devices by name, each with what it does or waits for, and how many more there are:
/// "edge-1 (running script), edge-6 (its device is away: cut) and 8 more"; empty for none.
pub(crate) fn first_by_name<'a>(targets: impl Iterator<Item = &'a v1::Target>) -> String {
    const MOST: usize = 3;
    let mut count = 0;
    // Few are kept: there may be very many.
    let mut first = BTreeMap::new();
    for target in targets {
        count += 1;
        first.insert(&target.device_name, target);
        if first.len() > MOST {
            first.pop_last();
        }
    }
    let now = Time::now();
    let named: Vec<String> = first
        .values()
        .map(|target| {
            let why = TargetView::from((*target).clone()).why_open(now);
            format!("{} ({why})", target.device_name)
        })
        .collect();
    let mut text = named.join(", ");
    if count > named.len() {
        text.push_str(&format!(" and {} more", count - named.len()));
    }
    printable(&text)
}

/// Why devices failed, a line for each reason: "2 failed with script_failed: edge-3, edge-7".
pub(crate) fn failures(targets: &[TargetView]) -> Vec<String> {
    const MOST: usize = 8;
    let mut reasons = BTreeMap::<String, Vec<&str>>::new();
    for target in targets {
        let reason = target.reason();
        if !reason.is_empty() {
            reasons.entry(reason).or_default().push(target.device());
        }
    }
    reasons
        .into_iter()
        .map(|(reason, devices)| {
            let more = devices.len().saturating_sub(MOST);
            let mut names = devices[..devices.len() - more].join(", ");
            if more > 0 {
                names.push_str(&format!(" and {more} more"));
            }
            printable(&format!("{} failed with {reason}: {names}", devices.len()))
        })
        .collect()
}

impl View for TargetView {
    const EMPTY: &'static str = "This deployment has no targets.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["DEVICE", "STATE", "DETAIL", "CHANGED"];
        if wide {
            titles.extend(["ATTEMPT", "DEVICE ID", "MESSAGE"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let target = &self.target;
        let mut row = vec![
            Field::plain(&target.device_name),
            Field::state(&self.state()),
            Field::plain(self.detail(now)),
            Field::plain(ago(Time::from_wire(target.updated_at), now)),
        ];
        if wide {
            row.push(Field::plain(target.attempt.to_string()));
            row.push(Field::plain(&target.device_id));
            row.push(Field::plain(&target.message));
        }
        row
    }

    fn name(&self) -> String {
        self.target.device_name.clone()
    }
}

#[cfg(test)]
mod tests;
