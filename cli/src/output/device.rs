//! Devices, their vital signs and their history, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Details, Field, Time, View, ago, bytes, seconds, short_digest, short_id, state_word, word,
};

mod away;
mod change;
mod drift;
mod leftover;

use away::sentence;
pub(crate) use change::{DeviceChange, fleet};
use drift::DriftView;
use leftover::LeftoversView;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceView {
    id: String,
    name: String,
    status: String,
    labels: BTreeMap<String, String>,
    last_seen: Option<Time>,
    agent_version: String,
    inventory: Option<InventoryView>,
    vital_signs: Option<VitalSignsView>,
    releases: Vec<ReleaseView>,
    created_at: Option<Time>,
    epoch: u64,
    key_fingerprint: String,
    revision: u64,
    /// Newest revision of the session protocol it spoke; 0 before its first session.
    protocol_revision: u32,
    /// Why it is conflicted; empty when it is not.
    conflict: String,
    /// Where it runs something else than its last outcome said.
    drifts: Vec<DriftView>,
    /// What its agent was to remove and could not.
    leftovers: LeftoversView,
    /// What is wrong with the disk of its agent's state folder: "no_space", "read_only",
    /// "io_error", or empty.
    disk_fault: String,
    /// When its last session ended; null while it has one.
    away_since: Option<Time>,
    /// Why it is away: "silent", "refused"...; empty while it has a session.
    away_reason: String,
    /// More about that in words.
    away_detail: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct InventoryView {
    os: String,
    arch: String,
    hostname: String,
    kernel: String,
    cpu_count: u32,
    memory_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct VitalSignsView {
    cpu_percent: f64,
    memory_used_mb: u64,
    memory_total_mb: u64,
    disk_free_bytes: u64,
    disk_total_bytes: u64,
    uptime_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ReleaseView {
    name: String,
    version: String,
    digest: String,
    previous_digest: String,
    since: Option<Time>,
}

impl From<v1::VitalSigns> for VitalSignsView {
    fn from(wire: v1::VitalSigns) -> Self {
        Self {
            cpu_percent: (wire.cpu_percent * 10.0).round() / 10.0,
            memory_used_mb: wire.memory_used_mb,
            memory_total_mb: wire.memory_total_mb,
            disk_free_bytes: wire.disk_free_bytes,
            disk_total_bytes: wire.disk_total_bytes,
            uptime_seconds: wire.uptime_seconds,
        }
    }
}

impl From<v1::Device> for DeviceView {
    fn from(wire: v1::Device) -> Self {
        let conflict = match wire.conflict() {
            v1::DeviceConflict::Unspecified => String::new(),
            conflict => word(conflict.as_str_name(), "DEVICE_CONFLICT_"),
        };
        Self {
            disk_fault: match wire.disk_fault() {
                v1::DiskFault::Unspecified => String::new(),
                _ => state_word!(v1::DiskFault, wire.disk_fault, "DISK_FAULT_"),
            },
            away_since: Time::from_wire(wire.away_since),
            away_reason: match wire.away_reason() {
                v1::AwayReason::Unspecified => String::new(),
                _ => state_word!(v1::AwayReason, wire.away_reason, "AWAY_REASON_"),
            },
            away_detail: wire.away_detail,
            status: state_word!(v1::DeviceStatus, wire.status, "DEVICE_STATUS_"),
            labels: wire.labels.into_iter().collect(),
            last_seen: Time::from_wire(wire.last_seen),
            created_at: Time::from_wire(wire.created_at),
            inventory: wire.inventory.map(|inventory| InventoryView {
                os: inventory.os,
                arch: inventory.arch,
                hostname: inventory.hostname,
                kernel: inventory.kernel,
                cpu_count: inventory.cpu_count,
                memory_bytes: inventory.memory_bytes,
            }),
            vital_signs: wire.vital_signs.map(VitalSignsView::from),
            releases: wire
                .releases
                .into_iter()
                .map(|release| ReleaseView {
                    since: Time::from_wire(release.since),
                    name: release.name,
                    version: release.version,
                    digest: release.digest,
                    previous_digest: release.previous_digest,
                })
                .collect(),
            id: wire.id,
            name: wire.name,
            agent_version: wire.agent_version,
            epoch: wire.epoch,
            key_fingerprint: wire.key_fingerprint,
            revision: wire.revision,
            protocol_revision: wire.protocol_revision,
            conflict,
            drifts: wire.drifts.into_iter().map(DriftView::from).collect(),
            leftovers: wire.leftovers.unwrap_or_default().into(),
        }
    }
}

impl DeviceView {
    /// "online", "offline: silent", "online, drifted", or "online, state_dir: no space"
    fn status(&self) -> String {
        let mut status = self.status.clone();
        if status == "offline" && !self.away_reason.is_empty() {
            status = format!("offline: {}", self.away_reason.replace('_', " "));
        }
        if !self.drifts.is_empty() {
            status.push_str(", drifted");
        }
        if let Some(fault) = self.disk() {
            status.push_str(", ");
            status.push_str(&fault);
        }
        status
    }

    /// "state_dir: no space"
    fn disk(&self) -> Option<String> {
        let fault = match self.disk_fault.as_str() {
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
        let why = match self.conflict.as_str() {
            "" => return None,
            "copies" => "two copies of it were seen",
            "epoch_not_issued" => {
                "somebody with its key named a session number that this control plane never gave"
            }
            other => other,
        };
        let resolve = format!("`kernexctl device resolve {}`", self.name);
        Some(format!("{why}; decide with {resolve}"))
    }

    pub(crate) fn into_name(self) -> String {
        self.name
    }

    /// Whether nothing but its vital signs may have changed.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let still = |view: &Self| Self {
            last_seen: None,
            vital_signs: None,
            ..view.clone()
        };
        still(self) == still(other)
    }

    fn labels(&self) -> String {
        pairs(&self.labels)
    }

    /// What it runs: where it drifts what it says itself, elsewhere what its last outcome said.
    fn runs(&self) -> String {
        let told = self.releases.iter().map(|release| {
            let drift = self.drift(&release.name);
            drift.map_or_else(
                || format!("{}:{}", release.name, release.version),
                DriftView::runs,
            )
        });
        let untold = self.drifts.iter().filter(|drift| {
            let is_told = |release: &ReleaseView| release.name == drift.name();
            !self.releases.iter().any(is_told)
        });
        let names: Vec<String> = told.chain(untold.map(DriftView::runs)).collect();
        names.join(", ")
    }

    fn drift(&self, name: &str) -> Option<&DriftView> {
        self.drifts.iter().find(|drift| drift.name() == name)
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
        let mut row = vec![
            Field::plain(&self.name),
            Field::state(&self.status()),
            Field::plain(ago(self.last_seen, now)),
            Field::plain(self.runs()),
            Field::plain(self.labels()),
        ];
        if wide {
            let platform = self
                .inventory
                .as_ref()
                .map_or_else(String::new, |i| format!("{}/{}", i.os, i.arch));
            let (cpu, memory) = self
                .vital_signs
                .map_or_else(Default::default, |v| (cpu(v), memory(v)));
            row.extend([&self.agent_version, &platform, &cpu, &memory, &self.id].map(Field::plain));
        }
        row
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Details for DeviceView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let mut lines = vec![
            ("Name", Field::plain(&self.name)),
            ("Id", Field::plain(&self.id)),
            ("Status", Field::state(&self.status())),
            ("Last seen", Field::plain(ago(self.last_seen, now))),
            ("Enrolled", Field::plain(ago(self.created_at, now))),
            ("Labels", Field::plain(self.labels())),
            ("Agent", Field::plain(&self.agent_version)),
            (
                "Session",
                Field::plain(format!(
                    "number {}, protocol revision {}",
                    self.epoch, self.protocol_revision
                )),
            ),
            ("Key", Field::plain(&self.key_fingerprint)),
        ];
        let away = sentence(&self.away_reason, &self.away_detail, self.away_since, now);
        if let Some(away) = away {
            lines.insert(3, ("Away", Field::plain(away)));
        }
        if let Some(conflict) = self.conflict() {
            lines.push(("Conflict", Field::plain(conflict)));
        }
        if let Some(inventory) = &self.inventory {
            lines.extend([
                ("Host", Field::plain(&inventory.hostname)),
                (
                    "Platform",
                    Field::plain(format!(
                        "{}/{}, kernel {}, {} processors, {} memory",
                        inventory.os,
                        inventory.arch,
                        inventory.kernel,
                        inventory.cpu_count,
                        bytes(inventory.memory_bytes)
                    )),
                ),
            ]);
        }
        if let Some(signs) = self.vital_signs {
            lines.extend([
                ("CPU", Field::plain(cpu(signs))),
                ("Memory", Field::plain(memory(signs))),
                ("Disk", Field::plain(disk(signs))),
                ("Up", Field::plain(seconds(signs.uptime_seconds))),
            ]);
        }
        if let Some(fault) = self.disk() {
            let fault = format!("{fault}; it gets no commands until that is repaired");
            lines.push(("Fault", Field::plain(fault)));
        }
        for drift in &self.drifts {
            lines.push(("Drifted", Field::plain(drift.sentence(now))));
        }
        for sentence in self.leftovers.sentences() {
            lines.push(("Not removed", Field::plain(sentence)));
        }
        for release in &self.releases {
            let title = match self.drift(&release.name) {
                Some(_) => "Expected",
                None => "Runs",
            };
            lines.push((
                title,
                Field::plain(format!(
                    "{}:{} ({}), since {}",
                    release.name,
                    release.version,
                    short_digest(&release.digest),
                    ago(release.since, now)
                )),
            ));
        }
        lines
    }
}

fn cpu(signs: VitalSignsView) -> String {
    format!("{:.1}%", signs.cpu_percent)
}

fn memory(signs: VitalSignsView) -> String {
    format!("{}/{} MB", signs.memory_used_mb, signs.memory_total_mb)
}

fn disk(signs: VitalSignsView) -> String {
    format!(
        "{} free of {}",
        bytes(signs.disk_free_bytes),
        bytes(signs.disk_total_bytes)
    )
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct MetricView {
    at: Option<Time>,
    #[serde(flatten)]
    vital_signs: VitalSignsView,
}

impl From<v1::MetricSample> for MetricView {
    fn from(wire: v1::MetricSample) -> Self {
        Self {
            at: Time::from_wire(wire.at),
            vital_signs: wire
                .vital_signs
                .map(VitalSignsView::from)
                .unwrap_or_default(),
        }
    }
}

impl View for MetricView {
    const EMPTY: &'static str = "No heartbeats are kept for this device yet.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["AT", "CPU", "MEMORY", "DISK", "UP"]
    }

    fn row(&self, _wide: bool, now: Time) -> Vec<Field> {
        vec![
            Field::plain(ago(self.at, now)),
            Field::plain(cpu(self.vital_signs)),
            Field::plain(memory(self.vital_signs)),
            Field::plain(disk(self.vital_signs)),
            Field::plain(seconds(self.vital_signs.uptime_seconds)),
        ]
    }

    fn name(&self) -> String {
        self.at.map_or_else(String::new, |at| at.to_string())
    }
}

/// One target in a device's history.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HistoryView {
    deployment_id: String,
    bundle: String,
    digest: String,
    attempt: u32,
    state: String,
    reason: String,
    message: String,
    created_at: Option<Time>,
    closed_at: Option<Time>,
    /// What the device ran once it was over; empty when nothing, or not yet known.
    active_version: String,
    active_digest: String,
    /// The deployment it rolled back; empty when it was no rollback.
    rolls_back: String,
}

impl From<v1::DeviceHistoryEntry> for HistoryView {
    fn from(wire: v1::DeviceHistoryEntry) -> Self {
        Self {
            created_at: Time::from_wire(wire.created_at),
            closed_at: Time::from_wire(wire.closed_at),
            deployment_id: wire.deployment_id,
            bundle: wire.bundle,
            digest: wire.digest,
            attempt: wire.attempt,
            state: wire.state,
            reason: wire.reason,
            message: wire.message,
            active_version: wire.active_version,
            active_digest: wire.active_digest,
            rolls_back: wire.rolls_back,
        }
    }
}

impl HistoryView {
    const fn kind(&self) -> &'static str {
        if self.rolls_back.is_empty() {
            "deploy"
        } else {
            "rollback"
        }
    }
}

impl View for HistoryView {
    const EMPTY: &'static str = "Nothing was deployed to this device yet.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec![
            "BUNDLE",
            "KIND",
            "STATE",
            "REASON",
            "RAN AFTER",
            "STARTED",
            "CLOSED",
            "DEPLOYMENT",
        ];
        if wide {
            titles.extend(["ATTEMPT", "DIGEST", "TAKES BACK", "MESSAGE"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(&self.bundle),
            Field::plain(self.kind()),
            Field::state(&self.state),
            Field::plain(&self.reason),
            Field::plain(&self.active_version),
            Field::plain(ago(self.created_at, now)),
            Field::plain(
                self.closed_at
                    .map_or_else(String::new, |at| ago(Some(at), now)),
            ),
            Field::plain(if wide {
                &self.deployment_id
            } else {
                short_id(&self.deployment_id)
            }),
        ];
        if wide {
            row.push(Field::plain(self.attempt.to_string()));
            row.push(Field::plain(&self.digest));
            row.push(Field::plain(&self.rolls_back));
            row.push(Field::plain(&self.message));
        }
        row
    }

    fn name(&self) -> String {
        self.deployment_id.clone()
    }
}

#[cfg(test)]
mod tests;
