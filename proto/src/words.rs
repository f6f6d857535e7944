//! Words of the contract as people read them: in logs, in traces and in the environment of scripts.
//! They are the same on both sides.

use crate::v1::{AttemptState, Disposition, FailureReason, Step};

/// Such as `succeeded`.
#[must_use]
pub fn state(state: AttemptState) -> String {
    short(state.as_str_name(), "ATTEMPT_STATE_")
}

/// Such as `script_failed`; none for an attempt that did not fail.
#[must_use]
pub fn reason(reason: FailureReason) -> Option<String> {
    let is_one = reason != FailureReason::Unspecified;
    is_one.then(|| short(reason.as_str_name(), "FAILURE_REASON_"))
}

/// Such as `pre_hook`.
#[must_use]
pub fn step(step: Step) -> String {
    short(step.as_str_name(), "STEP_")
}

/// Such as `applied`.
#[must_use]
pub fn disposition(disposition: Disposition) -> String {
    short(disposition.as_str_name(), "DISPOSITION_")
}

fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short() {
        assert_eq!(state(AttemptState::Succeeded), "succeeded");
        assert_eq!(
            reason(FailureReason::ScriptFailed).as_deref(),
            Some("script_failed")
        );
        assert_eq!(reason(FailureReason::Unspecified), None);
        assert_eq!(step(Step::PreHook), "pre_hook");
        assert_eq!(disposition(Disposition::Applied), "applied");
    }
}
