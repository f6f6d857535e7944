//! From options and files about phases to the `Rollout` of the protocol.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kernex_proto::v1::{
    self,
    phase::{MaxFailures, Size},
};
use serde::Deserialize;

use crate::{
    args::{
        parse_duration,
        rollout::{Amount, OnFailure, Phases, RolloutArgs},
    },
    error::{Exit, Failure},
    yaml,
};

/// A rollout as it is written in a file. Options of the command line fill in what the file leaves
/// out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    phases: Vec<WrittenPhase>,
    max_in_flight: Option<u32>,
    #[serde(default)]
    budgets: BTreeMap<String, u32>,
    #[serde(default)]
    approve: bool,
    on_failure: Option<OnFailure>,
}

/// One phase in the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenPhase {
    size: Amount,
    success: Option<Share>,
    max_failures: Option<Amount>,
    soak: Option<Pause>,
}

/// `95`, or `95%`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "Amount")]
struct Share(f64);

impl TryFrom<Amount> for Share {
    type Error = String;

    fn try_from(amount: Amount) -> Result<Self, String> {
        match amount {
            Amount::Count(count) => Ok(Self(count.into())),
            Amount::Percent(share) => Ok(Self(share)),
        }
    }
}

/// `10m`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Pause(Duration);

impl TryFrom<String> for Pause {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text).map(Self)
    }
}

/// The rollout from file and options; none when neither says anything.
pub(super) fn rollout(args: RolloutArgs) -> Result<Option<v1::Rollout>, Failure> {
    let said = args.canary.is_some()
        || args.phases.is_some()
        || args.success.is_some()
        || args.max_failures.is_some()
        || args.soak.is_some()
        || args.max_in_flight.is_some()
        || !args.budgets.is_empty()
        || args.approve
        || args.on_failure.is_some();
    if !said {
        return Ok(None);
    }
    let sized = |size| WrittenPhase {
        size,
        success: None,
        max_failures: None,
        soak: None,
    };
    let mut written = match (&args.phases, args.canary) {
        (Some(Phases::File(path)), _) => read(path)?,
        (Some(Phases::Sizes(sizes)), _) => Written {
            phases: sizes.iter().copied().map(sized).collect(),
            ..Written::default()
        },
        (None, Some(canary)) => Written {
            phases: vec![sized(Amount::Count(canary))],
            ..Written::default()
        },
        (None, None) => Written::default(),
    };
    if written.phases.is_empty() {
        refuse_what_needs_phases(&args, &written)?;
        written.phases.push(sized(Amount::Percent(100.0)));
    }
    let mut budgets = written.budgets;
    budgets.extend(args.budgets.iter().cloned());
    let on_failure = args.on_failure.or(written.on_failure);
    Ok(Some(v1::Rollout {
        phases: written
            .phases
            .into_iter()
            .map(|phase| of_contract(phase, &args))
            .collect(),
        max_in_flight: args.max_in_flight.or(written.max_in_flight).unwrap_or(0),
        budgets: budgets
            .into_iter()
            .map(|(label, max)| v1::DisruptionBudget { label, max })
            .collect(),
        approval: args.approve || written.approve,
        on_failure: match on_failure {
            None => v1::OnFailure::Unspecified,
            Some(OnFailure::Pause) => v1::OnFailure::Pause,
            Some(OnFailure::Rollback) => v1::OnFailure::Rollback,
        }
        .into(),
    }))
}

/// Refuses options that need phases. Without phases every device begins at once, and they would do
/// nothing.
fn refuse_what_needs_phases(args: &RolloutArgs, written: &Written) -> Result<(), Failure> {
    let needing = [
        ("--approve", args.approve || written.approve),
        ("--soak", args.soak.is_some()),
        ("--success", args.success.is_some()),
    ];
    match needing.into_iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::usage(
            format!(
                "`{flag}` is about what comes after a phase, and without phases every device begins at once"
            ),
            "Name phases as well: `--canary 1`, or `--phases 1,10%,100%`.",
        )),
    }
}

fn of_contract(phase: WrittenPhase, args: &RolloutArgs) -> v1::Phase {
    let max_failures = phase.max_failures.or(args.max_failures);
    v1::Phase {
        size: Some(match phase.size {
            Amount::Count(count) => Size::Count(count),
            Amount::Percent(share) => Size::Percent(share),
        }),
        success_percent: phase.success.map(|share| share.0).or(args.success),
        max_failures: max_failures.map(|most| match most {
            Amount::Count(count) => MaxFailures::MaxFailuresCount(count),
            Amount::Percent(share) => MaxFailures::MaxFailuresPercent(share),
        }),
        soak_seconds: phase
            .soak
            .map(|pause| pause.0)
            .or(args.soak)
            .map_or(0, |pause| pause.as_secs()),
    }
}

fn read(path: &Path) -> Result<Written, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    yaml::read(&text).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("`{}` does not say how to proceed: {error}", path.display()),
            "Write e.g. `phases: [{size: 1, soak: 10m}, {size: 50%, max-failures: 2%}]`; see docs/rollouts.md.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_no_rollout() {
        assert_eq!(rollout(RolloutArgs::default()).unwrap(), None);
    }

    #[test]
    fn a_canary_is_a_phase_and_thresholds_hold_for_each() {
        let asked = RolloutArgs {
            canary: Some(5),
            soak: Some(Duration::from_secs(60)),
            max_failures: Some(Amount::Percent(2.0)),
            budgets: vec![("rack".into(), 1)],
            ..RolloutArgs::default()
        };
        let rollout = rollout(asked).unwrap().unwrap();
        assert_eq!(rollout.phases.len(), 1, "the server adds the rest");
        let phase = &rollout.phases[0];
        assert_eq!(phase.size, Some(Size::Count(5)));
        assert_eq!(
            phase.max_failures,
            Some(MaxFailures::MaxFailuresPercent(2.0))
        );
        assert_eq!((phase.soak_seconds, phase.success_percent), (60, None));
        assert_eq!(rollout.budgets[0].label, "rack");
    }

    #[test]
    fn what_needs_phases_is_refused_without_them() {
        let minute = Some(Duration::from_secs(60));
        let alone = [
            RolloutArgs {
                approve: true,
                ..RolloutArgs::default()
            },
            RolloutArgs {
                soak: minute,
                max_in_flight: Some(5),
                ..RolloutArgs::default()
            },
            RolloutArgs {
                success: Some(95.0),
                ..RolloutArgs::default()
            },
        ];
        for asked in alone {
            let refused = rollout(asked.clone()).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage, "{asked:?}");
            let phased = RolloutArgs {
                canary: Some(1),
                ..asked
            };
            assert!(rollout(phased).unwrap().is_some());
        }
        // These mean something for everybody at once, too.
        let together = RolloutArgs {
            max_failures: Some(Amount::Count(3)),
            on_failure: Some(OnFailure::Rollback),
            ..RolloutArgs::default()
        };
        assert!(rollout(together).unwrap().is_some());
    }

    #[test]
    fn a_file_says_more_and_the_command_line_fills_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rollout.yaml");
        let text = "phases:\n- {size: 1, soak: 10m}\n- {size: 50%, success: 95%, max-failures: 3}\nbudgets: {rack: 2}\napprove: true\n";
        std::fs::write(&path, text).unwrap();
        let asked = RolloutArgs {
            phases: Some(Phases::File(path.clone())),
            soak: Some(Duration::from_secs(5)),
            ..RolloutArgs::default()
        };
        let rollout = rollout(asked.clone()).unwrap().unwrap();
        let soaks: Vec<u64> = rollout
            .phases
            .iter()
            .map(|phase| phase.soak_seconds)
            .collect();
        assert_eq!(soaks, [600, 5]);
        assert_eq!(rollout.phases[1].success_percent, Some(95.0));
        assert!(rollout.approval);
        for wrong in [
            "phases: [{soak: 1m}]",
            "phases: [{size: 1, sok: 1m}]",
            "phase: 1",
            "phases: [{size: x}]",
        ] {
            std::fs::write(&path, wrong).unwrap();
            let refused = super::rollout(asked.clone()).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage, "{wrong}");
            assert!(
                refused.message.contains("line 1"),
                "{wrong}: {}",
                refused.message
            );
        }
    }
}
