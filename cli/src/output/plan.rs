//! Plans, as printed.

use kernex_proto::v1::{self, PlanVerdict};
use serde::Serialize;

use super::{Field, Time, View, bytes, state_word, target::reason_of, wire::Wire};

/// What a deployment would do on one device.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct PlanView {
    plan: Wire<v1::DevicePlan>,
}

/// A clock that is off by more than this is mentioned, in milliseconds.
const NOTABLE_SKEW: u64 = 60_000;

impl From<v1::DevicePlan> for PlanView {
    fn from(plan: v1::DevicePlan) -> Self {
        Self { plan: Wire(plan) }
    }
}

impl PlanView {
    /// Whether a deployment would not succeed here, as far as the device can tell.
    pub(crate) fn would_fail(&self) -> bool {
        matches!(
            self.plan.verdict(),
            PlanVerdict::WouldFail | PlanVerdict::Conflicted | PlanVerdict::Penalised
        )
    }

    /// What would happen, in one word.
    pub(crate) fn verdict(&self) -> String {
        state_word!(PlanVerdict, self.plan.verdict, "PLAN_VERDICT_")
    }

    /// Whether the device could not be asked.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.plan.verdict(),
            PlanVerdict::Offline | PlanVerdict::NoAnswer
        )
    }

    fn notes(&self) -> String {
        let Some(answer) = &self.plan.answer else {
            return self.plan.note.clone();
        };
        let obstacles = answer.obstacles.iter();
        let mut notes: Vec<String> = obstacles
            .map(|obstacle| format!("{}: {}", reason_of(obstacle.reason), obstacle.message))
            .collect();
        if !self.plan.note.is_empty() {
            notes.push(self.plan.note.clone());
        }
        if answer.has_copy {
            notes.push("nothing to download".to_owned());
        }
        if answer.noexec {
            notes.push(
                "its state folder is mounted noexec: no program can be started there".to_owned(),
            );
        }
        if answer.attempts_ahead > 0 {
            notes.push(format!("busy, {} ahead", answer.attempts_ahead));
        }
        let skew = self.plan.clock_skew_ms;
        if skew.unsigned_abs() >= NOTABLE_SKEW {
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
            Field::plain(&self.plan.device_name),
            Field::state(&self.verdict()),
            Field::plain(self.notes()),
        ];
        if wide {
            let answer = self.plan.answer.as_ref();
            let size = |size: Option<u64>| Field::plain(size.map_or_else(String::new, bytes));
            row.push(size(answer.map(|answer| answer.disk_free_bytes)));
            row.push(size(answer.map(|answer| answer.disk_needed_bytes)));
            row.push(Field::plain(&self.plan.device_id));
        }
        row
    }

    fn name(&self) -> String {
        self.plan.device_name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_who_would_fail_and_who_could_not_be_asked() {
        let plan = |verdict: PlanVerdict, clock_skew_ms, answer| {
            PlanView::from(v1::DevicePlan {
                device_name: "edge-1".into(),
                verdict: verdict.into(),
                answer,
                clock_skew_ms,
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
        let there = plan(PlanVerdict::AlreadyActive, 0, Some(there));
        assert_eq!(
            there.notes(),
            "nothing to download; its state folder is mounted noexec: no program can be started there"
        );
        let failing = plan(PlanVerdict::WouldFail, -61_000, Some(full));
        assert!(failing.would_fail() && !failing.is_unknown());
        assert_eq!(
            failing.notes(),
            "disk_full: 2 bytes are needed and 1 are free; busy, 2 ahead; its clock is -61 s off"
        );
        let offline = plan(PlanVerdict::Offline, -61_000, None);
        assert!(!offline.would_fail() && offline.is_unknown());
        assert_eq!(
            (offline.notes(), offline.verdict()),
            (String::new(), "offline".to_owned()),
            "it has no clock that was asked"
        );
    }
}
