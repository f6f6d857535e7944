//! How a deployment proceeds: phases, budgets, and where each phase stands.

use std::time::Duration;

use kernex_proto::v1;
use tonic::Status;

use super::fields::seconds;
use crate::{
    clock::Timestamp,
    domain::{
        rollout::{Amount, Budget, OnFailure, Percent, Phase, Rollout},
        selector::check_key,
    },
    error::invalid,
    store::PhaseStatus,
};

/// The rollout of a request, checked. Errors name fields from the rollout on.
pub(super) fn rollout(wire: v1::Rollout) -> Result<Rollout, Status> {
    let on_failure = match wire.on_failure() {
        v1::OnFailure::Unspecified | v1::OnFailure::Pause => OnFailure::Pause,
        v1::OnFailure::Rollback => OnFailure::Rollback,
    };
    let phases = wire
        .phases
        .iter()
        .enumerate()
        .map(|(index, wire)| phase(&format!("rollout.phases[{index}]"), wire))
        .collect::<Result<_, _>>()?;
    let budgets = wire
        .budgets
        .into_iter()
        .enumerate()
        .map(|(index, wire)| budget(&format!("rollout.budgets[{index}]"), wire))
        .collect::<Result<_, _>>()?;
    let asked = Rollout {
        phases,
        max_in_flight: (wire.max_in_flight > 0).then_some(wire.max_in_flight),
        budgets,
        approval: wire.approval,
        on_failure,
    };
    asked
        .checked()
        .map_err(|wrong| invalid(&format!("rollout.{}", wrong.field), wrong.why))
}

fn phase(field: &str, wire: &v1::Phase) -> Result<Phase, Status> {
    use v1::phase::{MaxFailures, Size};
    let size = match wire.size {
        Some(Size::Count(count)) => Amount::Count(count),
        Some(Size::Percent(share)) => Amount::Share(percent(&format!("{field}.percent"), share)?),
        None => {
            return Err(invalid(
                &format!("{field}.size"),
                "say how many targets it takes, as `count` or `percent`",
            ));
        }
    };
    let success = wire
        .success_percent
        .map(|share| percent(&format!("{field}.success_percent"), share))
        .transpose()?;
    let max_failures = match wire.max_failures {
        None => Amount::Count(0),
        Some(MaxFailures::MaxFailuresCount(count)) => Amount::Count(count),
        Some(MaxFailures::MaxFailuresPercent(share)) => {
            Amount::Share(percent(&format!("{field}.max_failures_percent"), share)?)
        }
    };
    Ok(Phase {
        size,
        success,
        max_failures,
        soak: seconds(
            &format!("{field}.soak_seconds"),
            wire.soak_seconds,
            Duration::ZERO,
        )?,
    })
}

fn percent(field: &str, share: f64) -> Result<Percent, Status> {
    Percent::from_f64(share).ok_or_else(|| {
        invalid(
            field,
            format!("{share} is no percentage: it has to be 0 to 100, with at most two decimals"),
        )
    })
}

fn budget(field: &str, wire: v1::DisruptionBudget) -> Result<Budget, Status> {
    check_key(&wire.label).map_err(|why| invalid(&format!("{field}.label"), why))?;
    Ok(Budget {
        label: wire.label,
        max: wire.max,
    })
}

impl From<Rollout> for v1::Rollout {
    fn from(rollout: Rollout) -> Self {
        let budgets = rollout.budgets.into_iter();
        Self {
            phases: rollout.phases.into_iter().map(v1::Phase::from).collect(),
            max_in_flight: rollout.max_in_flight.unwrap_or(0),
            budgets: budgets
                .map(|budget| v1::DisruptionBudget {
                    label: budget.label,
                    max: budget.max,
                })
                .collect(),
            approval: rollout.approval,
            on_failure: v1::OnFailure::from(rollout.on_failure).into(),
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        use v1::phase::{MaxFailures, Size};
        Self {
            size: Some(match phase.size {
                Amount::Count(count) => Size::Count(count),
                Amount::Share(share) => Size::Percent(share.to_f64()),
            }),
            success_percent: phase.success.map(Percent::to_f64),
            max_failures: Some(match phase.max_failures {
                Amount::Count(count) => MaxFailures::MaxFailuresCount(count),
                Amount::Share(share) => MaxFailures::MaxFailuresPercent(share.to_f64()),
            }),
            soak_seconds: phase.soak.as_secs(),
        }
    }
}

impl From<PhaseStatus> for v1::PhaseStatus {
    fn from(status: PhaseStatus) -> Self {
        Self {
            number: status.number,
            phase: Some(status.phase.into()),
            counts: Some(status.counts.into()),
            opened_at: status.opened_at.map(Timestamp::to_proto),
            passed_at: status.passed_at.map(Timestamp::to_proto),
            soaked_at: status.soaked_at.map(Timestamp::to_proto),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::phase::{MaxFailures, Size};

    fn sized(size: Size) -> v1::Phase {
        v1::Phase {
            size: Some(size),
            ..v1::Phase::default()
        }
    }

    fn of(phases: Vec<v1::Phase>) -> v1::Rollout {
        v1::Rollout {
            phases,
            ..v1::Rollout::default()
        }
    }

    #[test]
    fn a_rollout_survives_the_way_through_the_house() {
        let strict = v1::Phase {
            success_percent: Some(99.5),
            max_failures: Some(MaxFailures::MaxFailuresPercent(0.5)),
            soak_seconds: 600,
            ..sized(Size::Count(1))
        };
        let all = v1::Phase {
            max_failures: Some(MaxFailures::MaxFailuresCount(3)),
            ..sized(Size::Percent(100.0))
        };
        let asked = v1::Rollout {
            phases: vec![strict, all],
            max_in_flight: 5,
            budgets: vec![v1::DisruptionBudget {
                label: "rack".into(),
                max: 1,
            }],
            approval: true,
            on_failure: v1::OnFailure::Pause.into(),
        };
        assert_eq!(v1::Rollout::from(rollout(asked.clone()).unwrap()), asked);
    }

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let over = v1::Phase {
            success_percent: Some(101.0),
            ..sized(Size::Count(1))
        };
        let failures = v1::Phase {
            max_failures: Some(MaxFailures::MaxFailuresPercent(-1.0)),
            ..sized(Size::Count(1))
        };
        let forever = v1::Phase {
            soak_seconds: u64::MAX,
            ..sized(Size::Count(1))
        };
        let budget = v1::Rollout {
            budgets: vec![v1::DisruptionBudget {
                label: "no label".into(),
                max: 1,
            }],
            ..v1::Rollout::default()
        };
        let table = [
            ("rollout.phases[0].size", of(vec![v1::Phase::default()])),
            (
                "rollout.phases[0].percent",
                of(vec![sized(Size::Percent(100.5))]),
            ),
            (
                "rollout.phases[0].percent",
                of(vec![sized(Size::Percent(0.0))]),
            ),
            ("rollout.phases[0].success_percent", of(vec![over])),
            ("rollout.phases[0].max_failures_percent", of(vec![failures])),
            ("rollout.phases[0].soak_seconds", of(vec![forever])),
            (
                "rollout.phases[1].count",
                of(vec![sized(Size::Count(5)), sized(Size::Count(4))]),
            ),
            ("rollout.budgets[0].label", budget),
        ];
        for (field, asked) in table {
            let status = rollout(asked).unwrap_err();
            assert!(status.message().starts_with(field), "{field}: {status}");
        }
    }
}
