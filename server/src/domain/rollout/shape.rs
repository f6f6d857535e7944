//! How an operator wants a deployment to proceed: phases, thresholds and limits. And which target
//! is in which phase.

use std::{fmt, time::Duration};

use kernex_proto::ids::{DeploymentId, DeviceId, Digest};

use crate::domain::named_enum;

/// A share in hundredths of a percent, because percentages have two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

impl Percent {
    /// 100 percent.
    pub const ALL: Self = Self(10_000);

    /// Reads a number of 0 to 100 with at most two decimals.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Self> {
        let points = (value * 100.0).round();
        let fits = (0.0..=100.0).contains(&value) && (value * 100.0 - points).abs() < 1e-6;
        fits.then_some(Self(points as u32))
    }

    #[must_use]
    pub const fn points(self) -> u32 {
        self.0
    }

    #[must_use]
    pub fn from_points(points: u32) -> Self {
        Self(points.min(Self::ALL.0))
    }

    #[must_use]
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// This share of `whole`, rounded up.
    #[must_use]
    pub fn of(self, whole: u32) -> u32 {
        let part = (u64::from(whole) * u64::from(self.0)).div_ceil(10_000);
        u32::try_from(part).unwrap_or(whole)
    }

    /// Whether `part` of `whole` is at least this share. 0 of 0 is.
    #[must_use]
    pub fn is_reached(self, part: u32, whole: u32) -> bool {
        u64::from(part) * 10_000 >= u64::from(whole) * u64::from(self.0)
    }

    /// Whether `part` of `whole` is more than this share.
    #[must_use]
    pub fn is_exceeded(self, part: u32, whole: u32) -> bool {
        u64::from(part) * 10_000 > u64::from(whole) * u64::from(self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.to_f64())
    }
}

/// A number of targets, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Count(u32),
    Share(Percent),
}

impl Amount {
    /// How many of `whole` this is, rounded up and at most `whole`.
    #[must_use]
    pub fn of(self, whole: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(whole),
            Self::Share(share) => share.of(whole),
        }
    }

    /// Whether `part` of `whole` is more than this.
    #[must_use]
    pub fn is_exceeded(self, part: u32, whole: u32) -> bool {
        match self {
            Self::Count(count) => part > count,
            Self::Share(share) => share.is_exceeded(part, whole),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

/// A slice of the targets that is opened together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// How many targets this phase and those before it have together.
    pub size: Amount,
    /// Share that has to succeed before the next phase opens. `None`: all targets have to be
    /// closed, with no more failures than allowed.
    pub success: Option<Percent>,
    pub max_failures: Amount,
    /// Time from the success threshold to the next phase.
    pub soak: Duration,
}

impl Phase {
    /// All targets, with the strictest thresholds.
    pub const REST: Self = Self {
        size: Amount::Share(Percent::ALL),
        success: None,
        max_failures: Amount::Count(0),
        soak: Duration::ZERO,
    };
}

/// A limit on the devices with the same value of a label that may run at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub label: String,
    /// Most targets of one value that may be in flight.
    pub max: u32,
}

named_enum! {
    /// What happens when a phase crosses its failure threshold.
    OnFailure {
        /// Nothing more is opened until an operator decides.
        Pause = "pause",
        /// It pauses, and devices that were updated return to what they ran before.
        Rollback = "rollback",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// In order. The last one has all targets that are left.
    pub phases: Vec<Phase>,
    /// Most targets that may be in flight; `None` for no limit.
    pub max_in_flight: Option<u32>,
    pub budgets: Vec<Budget>,
    /// Whether an operator promotes each phase after the first.
    pub approval: bool,
    /// What happens when too many targets failed.
    pub on_failure: OnFailure,
}

/// Most phases of one deployment.
const MAX_PHASES: usize = 100;
/// Most budgets of one deployment.
const MAX_BUDGETS: usize = 8;

/// What is wrong with a rollout, and in which of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRollout {
    /// Path below the rollout, such as `phases[1].percent`.
    pub field: String,
    pub why: String,
}

fn wrong(field: impl Into<String>, why: impl Into<String>) -> InvalidRollout {
    InvalidRollout {
        field: field.into(),
        why: why.into(),
    }
}

impl Rollout {
    #[must_use]
    pub fn at_once() -> Self {
        Self {
            phases: vec![Phase::REST],
            max_in_flight: None,
            budgets: Vec::new(),
            approval: false,
            on_failure: OnFailure::Pause,
        }
    }

    /// All targets in one phase that allows any number of failures. Like a deployment without
    /// phases, but the planner opens it.
    #[must_use]
    pub fn together() -> Self {
        let mut rollout = Self::at_once();
        rollout.phases[0].max_failures = Amount::Share(Percent::ALL);
        rollout
    }

    /// Checks the rollout. Adds a last phase for the targets that are left, if there is none. It
    /// has the thresholds of the last phase that was named.
    pub fn checked(mut self) -> Result<Self, InvalidRollout> {
        let mut last = (0, 0);
        for (index, phase) in self.phases.iter().enumerate() {
            let (field, size, before, none) = match phase.size {
                Amount::Count(count) => ("count", count, &mut last.0, "it has to take a target"),
                Amount::Share(share) => (
                    "percent",
                    share.points(),
                    &mut last.1,
                    "it has to be over 0 and at most 100",
                ),
            };
            let field = format!("phases[{index}].{field}");
            if size == 0 {
                return Err(wrong(field, none));
            }
            if size <= *before {
                return Err(wrong(
                    field,
                    "phases are cumulative, so each has to take more than the one before",
                ));
            }
            *before = size;
            let full = Amount::Share(Percent::ALL);
            if phase.size == full && index + 1 < self.phases.len() {
                let next = format!("phases[{}]", index + 1);
                return Err(wrong(
                    next,
                    "the phase before it takes every target already",
                ));
            }
        }
        let whole = |phase: &&Phase| phase.size == Amount::Share(Percent::ALL);
        if self.phases.last().filter(whole).is_none() {
            let size = Phase::REST.size;
            let like = self.phases.last().copied().unwrap_or(Phase::REST);
            self.phases.push(Phase { size, ..like });
        }
        if self.phases.len() > MAX_PHASES {
            return Err(wrong("phases", format!("there are at most {MAX_PHASES}")));
        }
        self.check_single_phase()?;
        self.check_budgets()?;
        Ok(self)
    }

    /// Refuses what only means something between two phases: it would be accepted and do nothing.
    fn check_single_phase(&self) -> Result<(), InvalidRollout> {
        const ALONE: &str = "with one phase everything begins at once; name a smaller phase first";
        let [only] = self.phases.as_slice() else {
            return Ok(());
        };
        if self.approval {
            return Err(wrong("approval", ALONE));
        }
        if !only.soak.is_zero() {
            return Err(wrong("phases[0].soak_seconds", ALONE));
        }
        Ok(())
    }

    fn check_budgets(&self) -> Result<(), InvalidRollout> {
        if self.budgets.len() > MAX_BUDGETS {
            return Err(wrong("budgets", format!("there are at most {MAX_BUDGETS}")));
        }
        for (index, budget) in self.budgets.iter().enumerate() {
            if budget.label.trim().is_empty() {
                return Err(wrong(
                    format!("budgets[{index}].label"),
                    "it names no label",
                ));
            }
            if budget.max == 0 {
                let field = format!("budgets[{index}].max");
                return Err(wrong(
                    field,
                    "with none at a time nothing would ever be released",
                ));
            }
            let before = &self.budgets[..index];
            if before.iter().any(|other| other.label == budget.label) {
                let field = format!("budgets[{index}].label");
                return Err(wrong(field, "this label has a budget already"));
            }
        }
        Ok(())
    }

    /// How many targets each phase and those before it have together.
    #[must_use]
    pub fn bounds(&self, total: u32) -> Vec<u32> {
        let mut reached = 0;
        let sizes = self.phases.iter().map(|phase| {
            reached = reached.max(phase.size.of(total));
            reached
        });
        sizes.collect()
    }

    /// The rank and the phase of each device in a deployment. Phases count from 1.
    #[must_use]
    pub fn places(
        &self,
        deployment: DeploymentId,
        devices: impl IntoIterator<Item = DeviceId>,
    ) -> Vec<(DeviceId, TargetPlace)> {
        let mut order: Vec<_> = devices
            .into_iter()
            .map(|device| (rank(deployment, device), device))
            .collect();
        order.sort_unstable();
        let bounds = self.bounds(u32::try_from(order.len()).unwrap_or(u32::MAX));
        let places = order
            .into_iter()
            .enumerate()
            .map(|(index, (rank, device))| {
                let phase = bounds.partition_point(|bound| *bound as usize <= index);
                let phase = phase.min(bounds.len().saturating_sub(1)) as u32 + 1;
                (device, TargetPlace { rank, phase })
            });
        places.collect()
    }
}

/// The place of a target in the order of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetPlace {
    /// Targets are opened in this order, the lowest first.
    pub rank: i64,
    /// Number of the phase, from 1; 0 without phases.
    pub phase: u32,
}

/// A number that looks random, and is always the same for one deployment and device. So canaries
/// differ between deployments, and a repeated request has the same order.
#[must_use]
pub fn rank(deployment: DeploymentId, device: DeviceId) -> i64 {
    let digest = Digest::of(&[deployment.0.into_bytes(), device.0.into_bytes()].concat());
    let first = digest.0.first_chunk().copied().unwrap_or_default();
    (u64::from_be_bytes(first) >> 1) as i64
}
