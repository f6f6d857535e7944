//! Which held targets are released next when budgets limit how many devices of one label value run
//! at a time.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::shape::Budget;

/// A held target that may be released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub target: Uuid,
    /// The value of its device for the label of each budget, in the order of the budgets; `None`
    /// where the device lacks the label.
    pub values: Vec<Option<String>>,
}

/// Targets in flight by value of one budget's label. Devices without the label count as one value.
pub type InFlight = BTreeMap<Option<String>, u32>;

/// Takes candidates in order, and skips each one that any budget has no room for.
#[must_use]
pub fn choose(
    candidates: Vec<Candidate>,
    budgets: &[Budget],
    mut in_flight: Vec<InFlight>,
    at_most: u32,
) -> Vec<Uuid> {
    in_flight.resize_with(budgets.len(), InFlight::new);
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
