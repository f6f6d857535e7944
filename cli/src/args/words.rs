//! Words of the contract as typed: the values of an enum in lower case, so that what is shown can
//! be typed, and a word of a newer version needs no line here.

use clap::builder::PossibleValuesParser;
use kernex_proto::v1;

/// The words of an enum, without `unspecified`.
fn words<T: TryFrom<i32>>(name: impl Fn(T) -> &'static str, prefix: &str) -> Vec<String> {
    (1..)
        .map_while(|number| T::try_from(number).ok())
        .map(|value| crate::text::word(name(value), prefix))
        .collect()
}

/// Words that an option takes.
fn parser(words: Vec<String>) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}

const RESULT: &str = "DEPLOYMENT_RESULT_";
const DEPLOYMENT: &str = "DEPLOYMENT_STATE_";
const ATTEMPT: &str = "ATTEMPT_STATE_";
const REASON: &str = "FAILURE_REASON_";

/// What `deployment list --state` takes: where it stands, or how it ended.
pub(super) fn deployment_states() -> PossibleValuesParser {
    let mut all = vec!["open".to_owned()];
    all.extend(words::<v1::DeploymentState>(
        |state| state.as_str_name(),
        DEPLOYMENT,
    ));
    all.extend(words::<v1::DeploymentResult>(
        |result| result.as_str_name(),
        RESULT,
    ));
    parser(all)
}

/// What `deployment get --state` takes.
pub(super) fn attempt_states() -> PossibleValuesParser {
    parser(words::<v1::AttemptState>(
        |state| state.as_str_name(),
        ATTEMPT,
    ))
}

/// What `deployment get --reason` takes.
pub(super) fn failure_reasons() -> PossibleValuesParser {
    parser(words::<v1::FailureReason>(
        |reason| reason.as_str_name(),
        REASON,
    ))
}

/// The name on the wire of a word.
fn wire_name(prefix: &str, word: &str) -> String {
    format!("{prefix}{}", word.to_ascii_uppercase())
}

/// The state of an attempt behind a word that the parser took.
pub(super) fn attempt_state(word: &str) -> Option<v1::AttemptState> {
    v1::AttemptState::from_str_name(&wire_name(ATTEMPT, word))
}

/// The reason behind a word that the parser took.
pub(super) fn failure_reason(word: &str) -> Option<v1::FailureReason> {
    v1::FailureReason::from_str_name(&wire_name(REASON, word))
}

/// The state of a deployment behind a word that the parser took.
pub(super) fn deployment_state(word: &str) -> Option<v1::DeploymentState> {
    v1::DeploymentState::from_str_name(&wire_name(DEPLOYMENT, word))
}

/// The result behind a word that the parser took.
pub(super) fn deployment_result(word: &str) -> Option<v1::DeploymentResult> {
    v1::DeploymentResult::from_str_name(&wire_name(RESULT, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_its_value() {
        let states = words::<v1::AttemptState>(|state| state.as_str_name(), ATTEMPT);
        assert!(states.contains(&"superseded".to_owned()), "{states:?}");
        assert!(states.iter().all(|word| attempt_state(word).is_some()));
        let reasons = words::<v1::FailureReason>(|reason| reason.as_str_name(), REASON);
        assert!(reasons.contains(&"penalised".to_owned()), "{reasons:?}");
        assert!(reasons.iter().all(|word| failure_reason(word).is_some()));
        assert_eq!(attempt_state("nonsense"), None);
    }
}
