//! Which held targets are opened next, when budgets limit how many devices with one value of a
//! label run at a time.

use std::collections::BTreeMap;

use kernex_proto::ids::TargetId;

use super::shape::Budget;

/// A held target that may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub target: TargetId,
    /// For each budget, in their order: the value of its label on this device. `None` where the
    /// device lacks the label.
    pub values: Vec<Option<String>>,
}

/// Targets in flight by the value of one budget's label. All devices without the label share one
/// value.
pub type RunningByValue = BTreeMap<Option<String>, u32>;

/// Takes candidates in order. One for which a budget has no room is skipped.
#[must_use]
pub fn choose(
    candidates: Vec<Candidate>,
    budgets: &[Budget],
    mut in_flight: Vec<RunningByValue>,
    at_most: u32,
) -> Vec<TargetId> {
    in_flight.resize_with(budgets.len(), RunningByValue::new);
    let mut chosen = Vec::new();
    for candidate in candidates {
        if chosen.len() >= at_most as usize {
            break;
        }
        let value = |index: usize| candidate.values.get(index).cloned().flatten();
        let fits = budgets.iter().enumerate().all(|(index, budget)| {
            let there = in_flight[index].get(&value(index)).copied().unwrap_or(0);
            there < budget.max
        });
        if !fits {
            continue;
        }
        for (index, of_label) in in_flight.iter_mut().enumerate() {
            *of_label.entry(value(index)).or_default() += 1;
        }
        chosen.push(candidate.target);
    }
    chosen
}
