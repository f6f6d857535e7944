//! What a deploy would meet on this device, without doing any of it. First the device is observed,
//! then a pure function makes the answer.

use std::io;

use kernex_proto::{
    manifest::Manifest,
    v1::{self, FailureReason},
};

use crate::{
    bundle::{self, BundleDir, NoRoom, activate, archives, unpack::PER_ENTRY},
    clock, host,
    journal::{Journal, JournalError},
    removal::Remover,
};

/// Guess of a bundle's unpacked size where it is not known: so many times its packed size.
const USUAL_RATIO: u64 = 3;

/// What was observed on the device.
#[derive(Debug, Clone, Default)]
struct Observed {
    free_bytes: u64,
    reclaimable_bytes: u64,
    active_digest: String,
    /// A release of the bundle, which a rollback returns to.
    has_release: bool,
    has_archive: bool,
    noexec: bool,
    attempts_ahead: u32,
}

/// Observes the device and answers.
pub(crate) async fn plan(
    remover: &Remover,
    journal: &Journal,
    plan: v1::Plan,
) -> Result<v1::Planned, JournalError> {
    let remover = remover.clone();
    journal
        .call(move |journal| {
            let facts = observe(&remover, journal, &plan)?;
            Ok(v1::Planned {
                device_time: Some(clock::wall()),
                ..judge(&plan, &facts)
            })
        })
        .await
}

fn observe(
    remover: &Remover,
    journal: &Journal,
    plan: &v1::Plan,
) -> Result<Observed, JournalError> {
    let deploy = plan.deploy.clone().unwrap_or_default();
    let live = journal.live()?;
    let ahead = live.iter().filter(|(_, record)| record.outcome.is_none());
    let active = journal.releases()?;
    let active = active.into_iter().find(|(name, _)| *name == deploy.name);
    let mut facts = Observed {
        free_bytes: host::disk_space(remover.state_dir())?.free,
        active_digest: active.map_or_else(String::new, |(_, release)| release.digest),
        attempts_ahead: u32::try_from(ahead.count()).unwrap_or(u32::MAX),
        noexec: host::is_noexec(remover.state_dir())?,
        ..Observed::default()
    };
    // Opening a bundle directory makes it, and planning must leave nothing behind.
    if BundleDir::exists(remover, &deploy.name) {
        let bundle_dir = BundleDir::open(remover, &deploy.name)?;
        facts.has_release = bundle_dir.newest_of(&deploy.digest).is_some();
        // Hashing it takes longer than an answer may; one that is damaged is downloaded again.
        let kept = archives::kept_bytes(&bundle_dir, &deploy.digest);
        facts.has_archive = kept.is_some_and(|kept| [0, kept].contains(&deploy.size_bytes));
    }
    if facts.free_bytes < needed(plan, &facts) {
        facts.reclaimable_bytes = reclaimable(remover, &deploy)?;
    }
    Ok(facts)
}

/// Bytes of the archives and releases that are removed when the disk is short. One that cannot be
/// removed counts as nothing, and so does the archive that the deploy would use.
fn reclaimable(remover: &Remover, deploy: &v1::Deploy) -> io::Result<u64> {
    let mut bytes = archives::bytes_beside(remover, &deploy.name, &deploy.digest);
    for bundle_dir in BundleDir::all(remover) {
        let current = activate::current(&bundle_dir)?;
        for release in std::fs::read_dir(bundle_dir.releases())?.flatten() {
            if release.file_name().to_str() != current.as_deref() {
                bytes += remover.removable(&release.path()).unwrap_or(0);
            }
        }
    }
    Ok(bytes)
}

/// Bytes that the deploy needs, with the free space that `requires` asks for.
fn needed(plan: &v1::Plan, facts: &Observed) -> u64 {
    let deploy = plan.deploy.clone().unwrap_or_default();
    let beside = Manifest::parse(plan.manifest_json.as_bytes())
        .ok()
        .and_then(|manifest| manifest.requires.disk_bytes)
        .unwrap_or(0);
    if deploy.go_back && facts.has_release {
        return 0;
    }
    // As the deploy itself counts it.
    let unpacked = match plan.unpacked_bytes {
        0 if plan.entries == 0 => deploy.size_bytes.saturating_mul(USUAL_RATIO),
        bytes => bytes.saturating_add(plan.entries.saturating_mul(PER_ENTRY)),
    };
    let fetched = match facts.has_archive {
        true => 0,
        false => deploy.size_bytes,
    };
    fetched
        .saturating_add(unpacked)
        .saturating_add(beside)
        .saturating_add(bundle::RESERVE)
}

fn judge(plan: &v1::Plan, facts: &Observed) -> v1::Planned {
    let deploy = plan.deploy.clone().unwrap_or_default();
    let has_copy = facts.has_archive || deploy.go_back && facts.has_release;
    let disk_needed_bytes = needed(plan, facts);
    let mut obstacles = Vec::new();
    let mut obstacle = |reason: FailureReason, message: String| {
        obstacles.push(v1::Obstacle {
            reason: reason.into(),
            message,
        });
    };
    let available = facts.free_bytes.saturating_add(facts.reclaimable_bytes);
    match Manifest::parse(plan.manifest_json.as_bytes()) {
        Err(err) => obstacle(FailureReason::ManifestInvalid, err.to_string()),
        Ok(manifest) => {
            let met = manifest.requires.check(
                std::env::consts::OS,
                std::env::consts::ARCH,
                // The disk is checked below, with everything that is needed at the same time.
                u64::MAX,
            );
            if let Err(unmet) = met {
                obstacle(FailureReason::Requirements, unmet.to_string());
            }
        }
    }
    if available < disk_needed_bytes {
        obstacle(
            FailureReason::DiskFull,
            NoRoom {
                needed: disk_needed_bytes,
                free: available,
            }
            .to_string(),
        );
    }
    v1::Planned {
        plan_id: plan.plan_id.clone(),
        obstacles,
        already_active: !facts.active_digest.is_empty() && facts.active_digest == deploy.digest,
        has_copy,
        attempts_ahead: facts.attempts_ahead,
        disk_free_bytes: facts.free_bytes,
        disk_needed_bytes,
        device_time: None,
        noexec: facts.noexec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(manifest: serde_json::Value) -> v1::Plan {
        v1::Plan {
            deploy: Some(v1::Deploy {
                name: "app".into(),
                digest: "d".into(),
                size_bytes: 1000,
                ..v1::Deploy::default()
            }),
            plan_id: "p".into(),
            manifest_json: manifest.to_string(),
            unpacked_bytes: 5000,
            entries: 2,
        }
    }

    fn roomy() -> Observed {
        Observed {
            free_bytes: 1 << 30,
            ..Observed::default()
        }
    }

    fn reasons(planned: &v1::Planned) -> Vec<FailureReason> {
        planned.obstacles.iter().map(v1::Obstacle::reason).collect()
    }

    #[test]
    fn what_would_fail_is_said_with_the_reason_it_would_fail_with() {
        use FailureReason::{DiskFull, ManifestInvalid, Requirements};
        let small = Observed {
            free_bytes: bundle::RESERVE + 5999 + 2 * PER_ENTRY,
            ..Observed::default()
        };
        let cleared = Observed {
            reclaimable_bytes: 1,
            ..small.clone()
        };
        let alien = json!({"version": "1", "requires": {"os": "plan9"}});
        let greedy = json!({"version": "1", "requires": {"disk_bytes": 1_u64 << 40}});
        let table = [
            (json!({"version": "1"}), roomy(), vec![]),
            (json!({"version": "1"}), small.clone(), vec![DiskFull]),
            (json!({"version": "1"}), cleared, vec![]),
            (alien.clone(), roomy(), vec![Requirements]),
            (alien, small, vec![Requirements, DiskFull]),
            (greedy, roomy(), vec![DiskFull]),
            (json!({}), roomy(), vec![ManifestInvalid]),
        ];
        for (manifest, facts, wanted) in table {
            let planned = judge(&plan(manifest.clone()), &facts);
            assert_eq!(reasons(&planned), wanted, "{manifest}");
            assert_eq!(planned.plan_id, "p");
        }
    }

    #[test]
    fn what_runs_already_and_what_need_not_be_fetched_is_seen() {
        let facts = Observed {
            active_digest: "d".into(),
            has_release: true,
            attempts_ahead: 2,
            noexec: true,
            ..roomy()
        };
        let mut ask = plan(json!({"version": "1"}));
        let planned = judge(&ask, &facts);
        assert!(planned.already_active && !planned.has_copy);
        assert!(planned.noexec);
        assert_eq!(planned.attempts_ahead, 2);
        let unpacked = bundle::RESERVE + 5000 + 2 * PER_ENTRY;
        assert_eq!(planned.disk_needed_bytes, unpacked + 1000);
        let kept = Observed {
            has_archive: true,
            ..facts.clone()
        };
        let planned = judge(&ask, &kept);
        assert!(planned.has_copy);
        assert_eq!(planned.disk_needed_bytes, unpacked);
        let guessed = v1::Plan {
            unpacked_bytes: 0,
            entries: 0,
            ..ask.clone()
        };
        assert_eq!(
            judge(&guessed, &facts).disk_needed_bytes,
            bundle::RESERVE + 4000
        );
        ask.deploy.as_mut().unwrap().go_back = true;
        let planned = judge(&ask, &facts);
        assert!(planned.has_copy);
        assert_eq!(planned.disk_needed_bytes, 0);
    }
}
