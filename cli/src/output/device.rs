//! Devices, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Details, Field, Time, View, ago, bytes, counted, lasting, seconds, short_digest, state_word,
    wire::Wire,
};

mod away;
mod change;
mod drift;
mod history;
mod leftover;
mod metric;

use away::sentence;
pub(crate) use change::{DeviceChange, fleet};
pub(crate) use history::HistoryView;
pub(crate) use metric::MetricView;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct DeviceView {
    device: Wire<v1::Device>,
}

impl From<v1::Device> for DeviceView {
    fn from(device: v1::Device) -> Self {
        Self {
            device: Wire(device),
        }
    }
}

impl DeviceView {
    /// "online", "offline" or "conflicted".
    fn status(&self) -> String {
        state_word!(v1::DeviceStatus, self.device.status, "DEVICE_STATUS_")
    }

    /// "silent", "refused"...; empty while it has a session.
    fn away_reason(&self) -> String {
        state_word!(v1::AwayReason, self.device.away_reason, "AWAY_REASON_")
    }

    /// "online", "offline: silent", "online, drifted", or "online, state_dir: no space"
    fn standing(&self) -> String {
        let mut standing = self.status();
        let away = self.away_reason();
        if standing == "offline" && !away.is_empty() {
            standing = format!("offline: {}", away.replace('_', " "));
        }
        if self.drifts() {
            standing.push_str(", drifted");
        }
        if let Some(fault) = self.disk_fault() {
            standing.push_str(", ");
            standing.push_str(&fault);
        }
        standing
    }

    /// "state_dir: no space"
    fn disk_fault(&self) -> Option<String> {
        let fault = state_word!(v1::DiskFault, self.device.disk_fault, "DISK_FAULT_");
        let fault = match fault.as_str() {
            "" => return None,
            "no_space" => "no space",
            "read_only" => "read-only",
            "io_error" => "input/output error",
            other => other,
        };
        Some(format!("state_dir: {fault}"))
    }

    /// Why it is conflicted, in words.
    fn conflict(&self) -> Option<String> {
        let why = state_word!(v1::DeviceConflict, self.device.conflict, "DEVICE_CONFLICT_");
        let why = match why.as_str() {
            "" => return None,
            "copies" => "two copies of it were seen",
            "epoch_not_issued" => {
                "somebody with its key named a session number that this control plane never gave"
            }
            other => other,
        };
        let resolve = format!("`kernexctl device resolve {}`", self.device.name);
        Some(format!("{why}; decide with {resolve}"))
    }

    pub(crate) fn into_name(self) -> String {
        self.device.0.name
    }

    /// Whether nothing but its vital signs may have changed.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let still = |view: &Self| v1::Device {
            last_seen: None,
            vital_signs: None,
            ..view.device.0.clone()
        };
        still(self) == still(other)
    }

    fn labels(&self) -> String {
        pairs(&self.device.labels)
    }

    /// Whether it runs something else than its last outcome said.
    fn drifts(&self) -> bool {
        !self.device.drifts.is_empty()
    }

    fn drift(&self, name: &str) -> Option<&v1::Drift> {
        self.device.drifts.iter().find(|drift| drift.name == name)
    }

    /// What it runs: where it drifts what it says itself, elsewhere what its last outcome said.
    fn runs(&self) -> String {
        let releases = &self.device.releases;
        let told = releases.iter().map(|release| {
            let drift = self.drift(&release.name);
            drift.map_or_else(
                || format!("{}:{}", release.name, release.version),
                drift::runs,
            )
        });
        let is_told = |drift: &&v1::Drift| releases.iter().any(|told| told.name == drift.name);
        let untold = self.device.drifts.iter().filter(|drift| !is_told(drift));
        let names: Vec<String> = told.chain(untold.map(drift::runs)).collect();
        names.join(", ")
    }

    fn releases(&self, now: Time) -> Vec<(&'static str, Field)> {
        let releases = self.device.releases.iter();
        let lines = releases.map(|release| {
            let title = match self.drift(&release.name) {
                Some(_) => "Expected",
                None => "Runs",
            };
            let text = format!(
                "{}:{} ({}), for {}",
                release.name,
                release.version,
                short_digest(&release.digest),
                lasting(Time::from_wire(release.since), now)
            );
            (title, Field::plain(text))
        });
        lines.collect()
    }
}

/// `a=1,b=2`
pub(super) fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

impl View for DeviceView {
    const EMPTY: &'static str = "No devices. Let one in: `kernexctl enrollment create`, then `kernex-agent enroll` on the device.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["NAME", "STATUS", "LAST SEEN", "RUNS", "LABELS"];
        if wide {
            titles.extend(["AGENT", "PLATFORM", "CPU", "MEMORY", "ID"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let device = &self.device;
        let mut row = vec![
            Field::plain(&device.name),
            Field::state(&self.standing()),
            Field::plain(ago(Time::from_wire(device.last_seen), now)),
            Field::plain(self.runs()),
            Field::plain(self.labels()),
        ];
        if wide {
            let inventory = device.inventory.as_ref();
            let platform =
                inventory.map_or_else(String::new, |found| format!("{}/{}", found.os, found.arch));
            let signs = device.vital_signs;
            let (cpu, memory) =
                signs.map_or_else(Default::default, |v| (metric::cpu(v), metric::memory(v)));
            row.extend(
                [&device.agent_version, &platform, &cpu, &memory, &device.id].map(Field::plain),
            );
        }
        row
    }

    fn name(&self) -> String {
        self.device.name.clone()
    }
}

impl Details for DeviceView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let device = &self.device;
        let since = |time| Field::plain(ago(Time::from_wire(time), now));
        let session = format!(
            "number {}, protocol revision {}",
            device.epoch, device.protocol_revision
        );
        let mut lines = vec![
            ("Name", Field::plain(&device.name)),
            ("Id", Field::plain(&device.id)),
            ("Status", Field::state(&self.standing())),
            ("Last seen", since(device.last_seen)),
            ("Enrolled", since(device.created_at)),
            ("Labels", Field::plain(self.labels())),
            ("Agent", Field::plain(&device.agent_version)),
            ("Session", Field::plain(session)),
            ("Key", Field::plain(&device.key_fingerprint)),
        ];
        let away_since = Time::from_wire(device.away_since);
        let away = sentence(&self.away_reason(), &device.away_detail, away_since, now);
        if let Some(away) = away {
            lines.insert(3, ("Away", Field::plain(away)));
        }
        if let Some(conflict) = self.conflict() {
            lines.push(("Conflict", Field::plain(conflict)));
        }
        if let Some(inventory) = &device.inventory {
            let platform = format!(
                "{}/{}, kernel {}, {}, {} memory",
                inventory.os,
                inventory.arch,
                inventory.kernel,
                counted(inventory.cpu_count.into(), "processor"),
                bytes(inventory.memory_bytes)
            );
            lines.push(("Host", Field::plain(&inventory.hostname)));
            lines.push(("Platform", Field::plain(platform)));
        }
        if let Some(signs) = device.vital_signs {
            lines.extend([
                ("CPU", Field::plain(metric::cpu(signs))),
                ("Memory", Field::plain(metric::memory(signs))),
                ("Disk", Field::plain(metric::disk(signs))),
                ("Up", Field::plain(seconds(signs.uptime_seconds))),
            ]);
        }
        if let Some(fault) = self.disk_fault() {
            let fault = format!("{fault}; it gets no commands until that is repaired");
            lines.push(("Fault", Field::plain(fault)));
        }
        for drift in &device.drifts {
            lines.push(("Drifted", Field::plain(drift::sentence(drift, now))));
        }
        let leftovers = device.leftovers.iter().flat_map(leftover::sentences);
        lines.extend(leftovers.map(|sentence| ("Not removed", Field::plain(sentence))));
        lines.extend(self.releases(now));
        lines
    }
}

#[cfg(test)]
mod tests;
