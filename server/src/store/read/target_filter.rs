//! Which targets of a deployment a list has.

use sea_orm::sea_query::{Expr, ExprTrait, SelectStatement};

use crate::{
    domain::{
        attempt::{FailureReason, State},
        pattern::Pattern,
    },
    store::{
        db::values::clean,
        entity::{attempt, target},
        read::device_filter::like,
    },
};

/// Which targets are meant. Every field that is set has to hold; an empty one means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetFilter {
    /// The state of the latest attempt is one of these.
    pub states: Vec<State>,
    /// It failed for one of these reasons.
    pub reasons: Vec<FailureReason>,
    /// In this phase.
    pub phase: Option<u32>,
    /// A pattern for the name of the device.
    pub device_name: Option<Pattern>,
}

impl TargetFilter {
    /// Whether a statement finds these targets and no others.
    pub(crate) fn is_exact(&self) -> bool {
        self.device_name.is_none()
    }

    /// Whether the pattern matches this name. A database may find more, see
    /// [`like`].
    pub(crate) fn takes_name(&self, name: &str) -> bool {
        self.device_name
            .as_ref()
            .is_none_or(|pattern| pattern.matches(name))
    }

    /// Leaves out what is not meant, in a join of targets `t` and attempts `a`.
    pub(crate) fn narrow(&self, query: &mut SelectStatement) {
        if !self.states.is_empty() {
            let states = self.states.iter().map(|state| state.as_str());
            query.and_where(Expr::col(("a", attempt::Column::State)).is_in(states));
        }
        if !self.reasons.is_empty() {
            let reasons = self.reasons.iter().map(|reason| reason.as_str());
            query.and_where(Expr::col(("a", attempt::Column::Reason)).is_in(reasons));
        }
        if let Some(phase) = self.phase {
            let phase = i32::try_from(phase).unwrap_or(i32::MAX);
            query.and_where(Expr::col(("t", target::Column::Phase)).eq(phase));
        }
        if let Some(pattern) = &self.device_name {
            let name = Expr::col(("t", target::Column::DeviceName));
            query.and_where(match pattern.only() {
                Some(only) => name.eq(clean(only)),
                None => name.like(like(pattern)),
            });
        }
    }
}
