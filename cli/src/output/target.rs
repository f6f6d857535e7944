//! The devices within a deployment, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{Field, Time, View, ago, bytes, printable, state_word};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct TargetView {
    id: String,
    device_id: String,
    device: String,
    bundle: String,
    attempt: u32,
    state: String,
    /// What it is doing, while running.
    step: String,
    bytes_done: u64,
    bytes_total: u64,
    /// A stop was carried out; the outcome has not come yet.
    stopped: bool,
    /// Empty unless failed.
    reason: String,
    message: String,
    exit_code: Option<i32>,
    output_tail: String,
    late_outcome: bool,
    stop_requested: bool,
    updated_at: Option<Time>,
    /// What the device ran once it was over; empty when nothing, or not yet known.
    active_version: String,
    active_digest: String,
    /// When it may begin; null unless it waits for that.
    opens_at: Option<Time>,
    /// "device", "window", "room"...; empty unless it waits.
    waits_for: String,
    /// Why its device is away, which budget, which deployment.
    waits_detail: String,
    /// The outcome that came after it was closed; null when none did.
    late: Option<LateView>,
    /// What it waits for while `deferred`; null otherwise.
    deferral: Option<DeferralView>,
}

/// An outcome that came late.
#[derive(Debug, Clone, Serialize)]
struct LateView {
    state: String,
    /// Empty unless failed.
    reason: String,
    message: String,
    exit_code: Option<i32>,
    output_tail: String,
    at: Option<Time>,
}

/// What a pre hook that asked for time said, and when it runs again.
#[derive(Debug, Clone, Serialize)]
struct DeferralView {
    message: String,
    until: Option<Time>,
    run: u32,
}

/// The empty text instead of `unspecified`.
fn named(text: String) -> String {
    if text == "unspecified" {
        String::new()
    } else {
        text
    }
}

impl From<v1::LateOutcome> for LateView {
    fn from(wire: v1::LateOutcome) -> Self {
        Self {
            state: state_word!(v1::AttemptState, wire.state, "ATTEMPT_STATE_"),
            reason: named(state_word!(
                v1::FailureReason,
                wire.reason,
                "FAILURE_REASON_"
            )),
            at: Time::from_wire(wire.at),
            message: wire.message,
            exit_code: wire.exit_code,
            output_tail: wire.output_tail,
        }
    }
}

impl LateView {
    /// "then failed late: script_failed (exit code 3)"
    fn sentence(&self) -> String {
        let mut text = format!("then {} late", self.state);
        if !self.reason.is_empty() {
            text.push_str(&format!(": {}", self.reason));
        }
        if let Some(code) = self.exit_code.filter(|code| *code != 0) {
            text.push_str(&format!(" (exit code {code})"));
        }
        text
    }
}

impl From<v1::Target> for TargetView {
    fn from(wire: v1::Target) -> Self {
        let progress = wire.progress.unwrap_or_default();
        Self {
            state: state_word!(v1::AttemptState, wire.state, "ATTEMPT_STATE_"),
            step: named(state_word!(v1::Step, progress.step, "STEP_")),
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            stopped: progress.stopped,
            reason: named(state_word!(
                v1::FailureReason,
                wire.reason,
                "FAILURE_REASON_"
            )),
            updated_at: Time::from_wire(wire.updated_at),
            id: wire.id,
            device_id: wire.device_id,
            device: wire.device_name,
            bundle: wire.bundle,
            attempt: wire.attempt,
            message: wire.message,
            exit_code: wire.exit_code,
            output_tail: wire.output_tail,
            late_outcome: wire.late_outcome,
            stop_requested: wire.stop_requested,
            active_version: wire.active_version,
            active_digest: wire.active_digest,
            opens_at: Time::from_wire(wire.opens_at),
            waits_for: named(state_word!(v1::WaitReason, wire.waits_for, "WAIT_REASON_")),
            waits_detail: wire.waits_detail,
            late: wire.late.map(LateView::from),
            deferral: wire.deferral.map(|deferral| DeferralView {
                message: deferral.message,
                until: Time::from_wire(deferral.until),
                run: deferral.run,
            }),
        }
    }
}

impl TargetView {
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Whether it ended without success.
    pub(crate) fn failed(&self) -> bool {
        matches!(
            self.state.as_str(),
            "failed" | "expired" | "cancelled" | "superseded"
        )
    }

    /// Whether nothing more will happen to it.
    pub(crate) fn closed(&self) -> bool {
        self.state == "succeeded" || self.failed()
    }

    /// Whether the device has begun.
    pub(crate) fn at_work(&self) -> bool {
        matches!(self.state.as_str(), "accepted" | "running" | "deferred")
    }

    /// Bytes of the bundle that are on the device, while it is fetched.
    pub(crate) fn downloaded(&self) -> Option<u64> {
        (self.step == "download").then_some(self.bytes_done)
    }

    /// State and step, without the numbers that change all the time.
    pub(crate) fn phase(&self) -> String {
        let stopped = if self.stopped { " stopped" } else { "" };
        format!("{} {}{stopped}", self.state, self.step)
    }

    /// What the script printed last.
    pub(crate) fn output_tail(&self) -> &str {
        &self.output_tail
    }

    /// What went wrong, in words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What it waits for: "begins in 3m", "its device is away: silent"; empty when for nothing.
    fn waits(&self, now: Time) -> String {
        let more = match self.waits_detail.as_str() {
            "" => String::new(),
            detail => format!(": {}", printable(&detail.replace('_', " "))),
        };
        if let (Some(at), "" | "start" | "window") = (self.opens_at, self.waits_for.as_str()) {
            return format!("begins {}", ago(Some(at), now));
        }
        let away = format!("its device is away{more}");
        if let (Some(at), "device") = (self.opens_at, self.waits_for.as_str()) {
            return format!("begins {}; {away}", ago(Some(at), now));
        }
        match self.waits_for.as_str() {
            "start" => "waits for its start".to_owned(),
            "phase" => "waits for its phase".to_owned(),
            "approval" => "waits for approval".to_owned(),
            "paused" => format!("paused{more}"),
            "room" => "waits for its turn".to_owned(),
            "budget" => format!("waits for its turn within a budget{more}"),
            "conflict" => "its device is conflicted".to_owned(),
            "device" => away,
            "disk" => "the disk of its device is sick".to_owned(),
            "deployment" => format!("waits for another deployment: {}", self.waits_detail),
            "answer" => "waits for its device's answer".to_owned(),
            "window" => "waits for its window".to_owned(),
            _ => String::new(),
        }
    }

    /// "running download, 1.0 MiB of 2.0 MiB", "failed: script_failed (exit code 3)".
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.state.clone();
        if self.state == "running" && !self.step.is_empty() {
            let step = match self.step.as_str() {
                "rollback" => "going back",
                step => step,
            };
            text = format!("running {step}");
            if self.bytes_total > 0 {
                text.push_str(&format!(
                    ", {} of {}",
                    bytes(self.bytes_done),
                    bytes(self.bytes_total)
                ));
            }
        }
        if !self.reason.is_empty() {
            text.push_str(&format!(": {}", self.reason));
        }
        if let Some(code) = self.exit_code.filter(|code| *code != 0) {
            text.push_str(&format!(" (exit code {code})"));
        }
        if self.stopped {
            text.push_str(", stopped");
        } else if self.stop_requested {
            text.push_str(", asked to stop");
        }
        if self.state == "succeeded" && !self.message.is_empty() {
            text.push_str(&format!(": {}", self.message));
        }
        if let Some(deferral) = self.deferral.as_ref().filter(|_| self.state == "deferred")
            && !deferral.message.is_empty()
        {
            text.push_str(&format!(": {}", deferral.message));
        }
        match &self.late {
            Some(late) => text.push_str(&format!(", {}", late.sentence())),
            // A server of before says no more.
            None if self.late_outcome => text.push_str(", with a late outcome"),
            None => {}
        }
        text
    }
}

/// Why devices failed, a line for each reason: "2 failed with script_failed: edge-3, edge-7".
pub(crate) fn failures(targets: &[TargetView]) -> Vec<String> {
    const MOST: usize = 8;
    let mut reasons = BTreeMap::<&str, Vec<&str>>::new();
    for target in targets.iter().filter(|target| !target.reason.is_empty()) {
        reasons
            .entry(&target.reason)
            .or_default()
            .push(&target.device);
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
        let sentence = self.sentence();
        let detail = sentence
            .strip_prefix(&self.state)
            .unwrap_or(&sentence)
            .trim_start_matches([':', ',', ' ']);
        let detail = match detail {
            "" => self.waits(now),
            detail => detail.to_owned(),
        };
        let until = self.deferral.as_ref().and_then(|deferral| deferral.until);
        let detail = match until {
            Some(until) if self.state == "deferred" => {
                let comma = if detail.is_empty() { "" } else { ", " };
                format!("{detail}{comma}again {}", ago(Some(until), now))
            }
            _ => detail,
        };
        let mut row = vec![
            Field::plain(&self.device),
            Field::state(&self.state),
            Field::plain(detail),
            Field::plain(ago(self.updated_at, now)),
        ];
        if wide {
            row.push(Field::plain(self.attempt.to_string()));
            row.push(Field::plain(&self.device_id));
            row.push(Field::plain(&self.message));
        }
        row
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    fn target(name: &str, state: v1::AttemptState) -> v1::Target {
        v1::Target {
            device_name: name.into(),
            state: state.into(),
            updated_at: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 0,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn targets_say_how_far_they_are_and_why_they_failed() {
        let targets: Vec<TargetView> = [
            target("edge-1", v1::AttemptState::Succeeded),
            v1::Target {
                progress: Some(v1::Progress {
                    step: v1::Step::Download.into(),
                    bytes_done: 1 << 20,
                    bytes_total: 4 << 20,
                    stopped: false,
                }),
                ..target("edge-2", v1::AttemptState::Running)
            },
            v1::Target {
                progress: Some(v1::Progress {
                    step: v1::Step::Rollback.into(),
                    stopped: true,
                    ..Default::default()
                }),
                stop_requested: true,
                ..target("edge-5", v1::AttemptState::Running)
            },
            v1::Target {
                reason: v1::FailureReason::ScriptFailed.into(),
                exit_code: Some(3),
                ..target("edge-3", v1::AttemptState::Failed)
            },
            v1::Target {
                opens_at: Some(prost_types::Timestamp {
                    seconds: 300,
                    nanos: 0,
                }),
                ..target("edge-4", v1::AttemptState::Pending)
            },
            v1::Target {
                waits_for: v1::WaitReason::Device.into(),
                waits_detail: "server_gone".into(),
                ..target("edge-9", v1::AttemptState::Pending)
            },
            v1::Target {
                waits_for: v1::WaitReason::Room.into(),
                ..target("edge-10", v1::AttemptState::Held)
            },
            v1::Target {
                deferral: Some(v1::TargetDeferral {
                    message: "3 players online".into(),
                    until: Some(prost_types::Timestamp {
                        seconds: 130,
                        nanos: 0,
                    }),
                    run: 2,
                }),
                ..target("edge-6", v1::AttemptState::Deferred)
            },
            v1::Target {
                late_outcome: true,
                late: Some(v1::LateOutcome {
                    state: v1::AttemptState::Failed.into(),
                    reason: v1::FailureReason::ScriptFailed.into(),
                    exit_code: Some(4),
                    ..Default::default()
                }),
                ..target("edge-7", v1::AttemptState::Expired)
            },
            v1::Target {
                message: "nothing was moved".into(),
                ..target("edge-8", v1::AttemptState::Succeeded)
            },
        ]
        .into_iter()
        .map(TargetView::from)
        .collect();
        let text = Printer::plain(Format::Table)
            .render_list(&targets, Time::at(110))
            .unwrap();
        insta::assert_snapshot!(text, @r"
        DEVICE   STATE      DETAIL                                         CHANGED
        edge-1   succeeded  -                                              10s ago
        edge-2   running    download, 1.00 MiB of 4.00 MiB                 10s ago
        edge-5   running    going back, stopped                            10s ago
        edge-3   failed     script_failed (exit code 3)                    10s ago
        edge-4   pending    begins in 3m                                   10s ago
        edge-9   pending    its device is away: server gone                10s ago
        edge-10  held       waits for its turn                             10s ago
        edge-6   deferred   3 players online, again in 20s                 10s ago
        edge-7   expired    then failed late: script_failed (exit code 4)  10s ago
        edge-8   succeeded  nothing was moved                              10s ago
        ");
    }

    #[test]
    fn failures_are_grouped_by_reason() {
        let failed = |name: &str, reason: v1::FailureReason| {
            TargetView::from(v1::Target {
                reason: reason.into(),
                ..target(name, v1::AttemptState::Failed)
            })
        };
        let mut targets = vec![
            failed("edge-1", v1::FailureReason::ScriptFailed),
            failed("edge-2", v1::FailureReason::HealthCheck),
            TargetView::from(target("edge-3", v1::AttemptState::Succeeded)),
        ];
        targets
            .extend((10..20).map(|n| failed(&format!("edge-{n}"), v1::FailureReason::HealthCheck)));
        insta::assert_snapshot!(failures(&targets).join("\n"), @r"
        11 failed with health_check: edge-2, edge-10, edge-11, edge-12, edge-13, edge-14, edge-15, edge-16 and 3 more
        1 failed with script_failed: edge-1
        ");
    }

    #[test]
    fn a_value_of_a_newer_server_is_unknown_and_no_error() {
        let view = TargetView::from(v1::Target {
            state: 99,
            ..Default::default()
        });
        assert_eq!(view.state, "unknown");
    }
}
