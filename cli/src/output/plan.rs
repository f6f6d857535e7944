//! Plans, as printed.

use kernex_proto::v1::{self, PlanVerdict};
use serde::Serialize;

use super::{Field, Time, View, bytes, printable, state_word};

/// What a deployment would do on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PlanView {
    device: String,
    device_id: String,
    verdict: String,
    obstacles: Vec<ObstacleView>,
    attempts_ahead: u32,
    download_needed: bool,
    /// Programs of the bundle cannot be started on the device, only text for the shell.
    noexec: bool,
    disk_free_bytes: Option<u64>,
    disk_needed_bytes: Option<u64>,
    clock_skew_ms: Option<i64>,
    /// Why the verdict is what it is, where the device did not say.
    note: String,
}

/// One reason for which it would fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ObstacleView {
    reason: String,
    message: String,
}

/// A clock that is off by more than this is mentioned, in milliseconds.
const NOTABLE_SKEW: u64 = 60_000;

impl From<v1::DevicePlan> for PlanView {
    fn from(wire: v1::DevicePlan) -> Self {
        let answer = wire.answer.as_ref();
        let obstacles = answer.map_or(&[][..], |answer| &answer.obstacles);
        Self {
            verdict: state_word!(PlanVerdict, wire.verdict, "PLAN_VERDICT_"),
            obstacles: obstacles
                .iter()
                .map(|obstacle| ObstacleView {
                    reason: state_word!(v1::FailureReason, obstacle.reason, "FAILURE_REASON_"),
                    message: printable(&obstacle.message),
                })
                .collect(),
            attempts_ahead: answer.map_or(0, |answer| answer.attempts_ahead),
            download_needed: answer.is_none_or(|answer| !answer.has_copy),
            noexec: answer.is_some_and(|answer| answer.noexec),
            disk_free_bytes: answer.map(|answer| answer.disk_free_bytes),
            disk_needed_bytes: answer.map(|answer| answer.disk_needed_bytes),
            clock_skew_ms: answer.map(|_| wire.clock_skew_ms),
            note: printable(&wire.note),
            device: wire.device_name,
            device_id: wire.device_id,
        }
    }
}

impl PlanView {
    /// Whether a deployment would not succeed here, as far as the device can tell.
    pub(crate) fn would_fail(&self) -> bool {
        matches!(
            self.verdict.as_str(),
            "would_fail" | "conflicted" | "penalised"
        )
    }

    /// What would happen, in one word.
    pub(crate) fn verdict(&self) -> &str {
        &self.verdict
    }

    /// Whether the device could not be asked.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.verdict.as_str(), "offline" | "no_answer")
    }

    fn notes(&self) -> String {
        let mut notes: Vec<String> = self
            .obstacles
            .iter()
            .map(|obstacle| format!("{}: {}", obstacle.reason, obstacle.message))
            .collect();
        if !self.note.is_empty() {
            notes.push(self.note.clone());
        }
        if !self.download_needed {
            notes.push("nothing to download".to_owned());
        }
        if self.noexec {
            notes.push(
                "its state folder is mounted noexec: no program can be started there".to_owned(),
            );
        }
        if self.attempts_ahead > 0 {
            notes.push(format!("busy, {} ahead", self.attempts_ahead));
        }
        if let Some(skew) = self
            .clock_skew_ms
            .filter(|skew| skew.unsigned_abs() >= NOTABLE_SKEW)
        {
            notes.push(format!("its clock is {} s off", skew / 1000));
        }
        notes.join("; ")
    }
}

impl View for PlanView {
    const EMPTY: &'static str = "No device matches.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["DEVICE", "VERDICT", "NOTES"];
        if wide {
            titles.extend(["DISK FREE", "DISK NEEDED", "ID"]);
        }
        titles
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(&self.device),
            Field::state(&self.verdict),
            Field::plain(self.notes()),
        ];
        if wide {
            let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), bytes);
            row.push(Field::plain(size(self.disk_free_bytes)));
            row.push(Field::plain(size(self.disk_needed_bytes)));
            row.push(Field::plain(&self.device_id));
        }
        row
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_who_would_fail_and_who_could_not_be_asked() {
        let plan = |verdict: PlanVerdict, answer| {
            PlanView::from(v1::DevicePlan {
                device_name: "edge-1".into(),
                verdict: verdict.into(),
                answer,
                clock_skew_ms: -61_000,
                ..v1::DevicePlan::default()
            })
        };
        let full = v1::Planned {
            obstacles: vec![v1::Obstacle {
                reason: v1::FailureReason::DiskFull.into(),
                message: "2 bytes are needed and 1 are free".into(),
            }],
            attempts_ahead: 2,
            ..v1::Planned::default()
        };
        let there = v1::Planned {
            has_copy: true,
            noexec: true,
            ..v1::Planned::default()
        };
        let mut there = plan(PlanVerdict::AlreadyActive, Some(there));
        there.clock_skew_ms = None;
        assert_eq!(
            there.notes(),
            "nothing to download; its state folder is mounted noexec: no program can be started there"
        );
        let failing = plan(PlanVerdict::WouldFail, Some(full));
        assert!(failing.would_fail() && !failing.is_unknown());
        assert_eq!(
            failing.notes(),
            "disk_full: 2 bytes are needed and 1 are free; busy, 2 ahead; its clock is -61 s off"
        );
        let offline = plan(PlanVerdict::Offline, None);
        assert!(!offline.would_fail() && offline.is_unknown());
        assert_eq!(
            (offline.notes().as_str(), offline.clock_skew_ms),
            ("", None)
        );
        assert_eq!(offline.verdict, "offline");
    }
}
