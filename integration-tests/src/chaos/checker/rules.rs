//! Rules about what was ordered, what ran, and what was said about it.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttemptKey, AttemptRow, Findings, Rule, SettledDevice, SettledWorld, TargetRow};

/// Every target is closed and resolved, and no agent still works on it.
pub(super) fn terminal(facts: &SettledWorld, findings: &mut Findings) {
    let attempts: BTreeMap<AttemptKey, &AttemptRow> =
        facts.attempts.iter().map(|row| (row.key(), row)).collect();
    for target in &facts.targets {
        let latest = attempts.get(&(target.id.clone(), target.latest_attempt));
        if latest.is_none() {
            findings.add(
                Rule::Terminal,
                format!(
                    "target {} has no attempt {}",
                    target.id, target.latest_attempt
                ),
            );
        }
    }
    for attempt in &facts.attempts {
        if !attempt.is_closed() || attempt.unresolved {
            findings.add(Rule::Terminal, format!("still open: {attempt:?}"));
        }
    }
}

/// A parsed line of a witness file.
struct Line<'a> {
    complete: bool,
    deployment: String,
    attempt: u32,
    step: &'a str,
    run: u32,
    digest: &'a str,
}

fn parse(line: &str) -> Option<Line<'_>> {
    let mut words = line.split(' ');
    let parsed = Line {
        complete: match words.next()? {
            "start" => false,
            "end" => true,
            _ => return None,
        },
        deployment: words.next()?.replace('-', ""),
        attempt: words.next()?.parse().ok()?,
        step: words.next()?,
        run: words.next()?.parse().ok()?,
        digest: words.next()?,
    };
    words.next().is_none().then_some(parsed)
}

/// Prefix of the steps of a rollback on the device.
const GOING_BACK: &str = "rollback.";

/// Whether a step ran from the bundle that was ordered or, going back, from one of the same name.
fn belongs(facts: &SettledWorld, line: &Line<'_>, target: &TargetRow) -> bool {
    let name = |digest: &str| facts.bundles.get(digest).map(|bundle| &bundle.name);
    line.digest == target.digest
        || line.step.starts_with(GOING_BACK)
            && name(line.digest).is_some_and(|before| Some(before) == name(&target.digest))
}

/// What ran was ordered and ran once; what succeeded ran to its end.
pub(super) fn witnesses(facts: &SettledWorld, findings: &mut Findings) {
    let targets: BTreeMap<(&str, &str), &TargetRow> = facts
        .targets
        .iter()
        .map(|target| ((target.deployment.as_str(), target.device.as_str()), target))
        .collect();
    let attempts: BTreeSet<AttemptKey> = facts.attempts.iter().map(AttemptRow::key).collect();
    // How often each step of each attempt came to its end.
    let mut complete: BTreeMap<AttemptKey, BTreeMap<&str, usize>> = BTreeMap::new();
    for device in &facts.devices {
        let mut seen = BTreeSet::new();
        for text in &device.witness {
            let place = format!("{}: witness line {text:?}", device.name);
            let Some(line) = parse(text) else {
                findings.add(Rule::NothingInvented, format!("{place} is no line"));
                continue;
            };
            let Some(target) = targets.get(&(line.deployment.as_str(), device.id.as_str())) else {
                findings.add(Rule::NothingInvented, format!("{place} is of no target"));
                continue;
            };
            let key = (target.id.clone(), line.attempt);
            if !attempts.contains(&key) {
                findings.add(Rule::NothingInvented, format!("{place} is of no attempt"));
            }
            if !belongs(facts, &line, target) {
                let detail = format!("{place}, but ordered was {}", target.digest);
                findings.add(Rule::NothingInvented, detail);
            }
            // Health probes may repeat.
            let once = line.step != "health";
            if !seen.insert((key.clone(), line.step, line.run, line.complete)) && once {
                findings.add(Rule::OnceOnly, format!("{place} is there again"));
            }
            if line.complete {
                *complete
                    .entry(key)
                    .or_default()
                    .entry(line.step)
                    .or_default() += 1;
            }
        }
    }
    succeeded(facts, &complete, findings);
}

fn succeeded(
    facts: &SettledWorld,
    complete: &BTreeMap<AttemptKey, BTreeMap<&str, usize>>,
    findings: &mut Findings,
) {
    let digests: BTreeMap<&str, &str> = facts
        .targets
        .iter()
        .map(|target| (target.id.as_str(), target.digest.as_str()))
        .collect();
    for attempt in &facts.attempts {
        let succeeded = |state: &str| state == "succeeded";
        if !succeeded(&attempt.state) && !attempt.late_state.as_deref().is_some_and(succeeded) {
            continue;
        }
        let bundle = digests
            .get(attempt.target.as_str())
            .and_then(|&digest| facts.bundles.get(digest));
        let Some(bundle) = bundle else {
            let detail = format!("{:?} is of no known bundle", attempt.key());
            findings.add(Rule::SucceededIsTrue, detail);
            continue;
        };
        for step in bundle.steps.iter().filter(|step| *step != "health") {
            let lines = complete.get(&attempt.key());
            let lines = lines.and_then(|steps| steps.get(step.as_str())).copied();
            if lines != Some(1) {
                findings.add(
                    Rule::SucceededIsTrue,
                    format!(
                        "{:?} succeeded with {} complete lines of {step}",
                        attempt.key(),
                        lines.unwrap_or(0)
                    ),
                );
            }
        }
    }
}

/// Every journalled outcome is in the table, once, and was acknowledged.
pub(super) fn journals(facts: &SettledWorld, findings: &mut Findings) {
    let rows: BTreeMap<AttemptKey, &AttemptRow> =
        facts.attempts.iter().map(|row| (row.key(), row)).collect();
    for device in &facts.devices {
        for entry in &device.journal {
            let key = (entry.target.clone(), entry.number);
            if !entry.acknowledged {
                let detail = format!("{}: {key:?} was never acknowledged", device.name);
                findings.add(Rule::Acknowledged, detail);
            }
            let Some((state, reason)) = &entry.outcome else {
                continue;
            };
            let Some(row) = rows.get(&key) else {
                let detail = format!("{}: the table has no {key:?}", device.name);
                findings.add(Rule::OutcomeRecorded, detail);
                continue;
            };
            let said = (Some(state), reason.as_ref());
            let in_time = (Some(&row.state), row.reason.as_ref()) == said;
            let late = (row.late_state.as_ref(), row.late_reason.as_ref()) == said;
            // The outcome of an attempt that the server closed by itself stands beside its state.
            // Others have none there.
            let once = late || (in_time && row.late_state.is_none());
            if !row.answered || !once {
                findings.add(
                    Rule::OutcomeRecorded,
                    format!(
                        "{}: journal says {state} {reason:?}, the table {row:?}",
                        device.name
                    ),
                );
            }
        }
    }
    invented(facts, findings);
    if facts.unknown_reports > 0 {
        findings.add(
            Rule::OutcomeRecorded,
            format!(
                "{} reports were kept aside as unknown",
                facts.unknown_reports
            ),
        );
    }
}

/// Every outcome in the table is in a journal.
fn invented(facts: &SettledWorld, findings: &mut Findings) {
    let journalled: BTreeSet<AttemptKey> = facts
        .devices
        .iter()
        .flat_map(|device: &SettledDevice| &device.journal)
        .filter(|entry| entry.outcome.is_some())
        .map(|entry| (entry.target.clone(), entry.number))
        .collect();
    for row in facts.attempts.iter().filter(|row| row.answered) {
        if !journalled.contains(&row.key()) {
            let detail = format!("no journal has the outcome of {row:?}");
            findings.add(Rule::OutcomeRecorded, detail);
        }
    }
}

/// Closed attempts never changed.
pub(super) fn closed(facts: &SettledWorld, findings: &mut Findings) {
    let rows: BTreeMap<AttemptKey, &AttemptRow> =
        facts.attempts.iter().map(|row| (row.key(), row)).collect();
    for (key, seen) in &facts.closings {
        let now = rows.get(key).and_then(|row| row.closing());
        let changed = seen.windows(2).any(|pair| pair[0] != pair[1]);
        if changed || seen.last() != now.as_ref() {
            findings.add(
                Rule::ClosedForGood,
                format!("{key:?} closed as {seen:?} and is now {now:?}"),
            );
        }
    }
}

/// No epoch of a device was ever given twice.
pub(super) fn sessions(facts: &SettledWorld, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for session in &facts.sessions {
        if !seen.insert(session) {
            let (device, epoch) = session;
            let detail = format!("device {device} had two sessions of epoch {epoch}");
            findings.add(Rule::OneSession, detail);
        }
    }
}
