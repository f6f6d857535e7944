//! Rules about what lies on a device: the current release, and what should not lie there any more.

use super::{Current, Findings, Rule, SettledDevice, SettledWorld};

/// `current` is complete, and the server knows it.
pub(super) fn current(facts: &SettledWorld, findings: &mut Findings) {
    for device in &facts.devices {
        for current in &device.currents {
            complete(facts, device, current, findings);
        }
        let on_disk = device
            .currents
            .iter()
            .map(|current| (&current.name, &current.digest));
        let on_disk = on_disk.collect::<std::collections::BTreeMap<_, _>>();
        let names = on_disk.keys().copied().chain(device.known.keys());
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let (disk, known) = (on_disk.get(name).copied(), device.known.get(name));
            if disk != known {
                findings.add(
                    Rule::CurrentKnown,
                    format!(
                        "{}: current {name} is {disk:?}, known as {known:?}",
                        device.name
                    ),
                );
            }
        }
    }
}

fn complete(
    facts: &SettledWorld,
    device: &SettledDevice,
    current: &Current,
    findings: &mut Findings,
) {
    let place = format!("{}: current {}", device.name, current.name);
    let mut broken = |detail: String| findings.add(Rule::CurrentComplete, detail);
    let Some(entries) = &current.entries else {
        broken(format!("{place} leads nowhere"));
        return;
    };
    let Some(bundle) = facts.bundles.get(&current.digest) else {
        broken(format!(
            "{place} is of no known bundle: {:?}",
            current.digest
        ));
        return;
    };
    for (path, expected) in &bundle.entries {
        match entries.get(path) {
            None => broken(format!("{place} ({}) lacks {path}", current.digest)),
            Some(found) if found != expected => broken(format!(
                "{place} ({}) has {path} as {found:?} instead of {expected:?}",
                current.digest
            )),
            Some(_) => {}
        }
    }
}

/// No process, temporary file or descriptor is left.
pub(super) fn nothing_left(facts: &SettledWorld, findings: &mut Findings) {
    for device in &facts.devices {
        for (kind, left) in [
            ("process", &device.processes),
            ("temporary file", &device.temporary),
            ("descriptor", &device.descriptors),
        ] {
            for left in left {
                findings.add(Rule::NothingLeft, format!("{}: {kind} {left}", device.name));
            }
        }
    }
    for left in &facts.server_leftovers {
        findings.add(Rule::NothingLeft, format!("server: {left}"));
    }
}
