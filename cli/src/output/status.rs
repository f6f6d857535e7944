//! The fleet in a few lines, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, deployment::DeploymentView, plural, wire::Wire};

/// What `status` shows.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct StatusView {
    summary: Wire<v1::GetFleetSummaryResponse>,
}

impl From<v1::GetFleetSummaryResponse> for StatusView {
    fn from(summary: v1::GetFleetSummaryResponse) -> Self {
        Self {
            summary: Wire(summary),
        }
    }
}

impl StatusView {
    /// Deployments that are not finished, newest first.
    pub(crate) fn open(&self) -> Vec<DeploymentView> {
        views(&self.summary.open_deployments)
    }

    /// How many are open beyond those.
    pub(crate) fn open_left(&self) -> u64 {
        self.summary.open_deployments_left
    }

    /// Deployments that failed last, newest first.
    pub(crate) fn failed(&self) -> Vec<DeploymentView> {
        views(&self.summary.failed_deployments)
    }

    fn counts(&self) -> v1::DeviceCounts {
        self.summary.devices.unwrap_or_default()
    }

    /// "30000: 29871 online, 102 offline, 27 conflicted", or "4, all online"
    fn devices(&self) -> String {
        let devices = self.counts();
        let parts = [
            (devices.online, "online"),
            (devices.offline, "offline"),
            (devices.conflicted, "conflicted"),
        ];
        let whole = parts.iter().find(|(count, _)| *count == devices.total);
        if let (Some((count, what)), 2..) = (whole, devices.total) {
            return format!("{count}, all {what}");
        }
        match some(&parts) {
            parts if parts.is_empty() => devices.total.to_string(),
            parts if devices.total == 1 => parts,
            parts => format!("{}: {parts}", devices.total),
        }
    }

    /// What an operator has to look at.
    fn notable(&self) -> String {
        let devices = self.counts();
        some(&[
            (devices.drifted, "drifted"),
            (devices.disk_faults, "with a faulty disk"),
            (devices.never_seen, "never seen"),
        ])
    }

    fn agents(&self) -> String {
        let agents = self.summary.agent_versions.iter().map(|count| {
            let version = match count.agent_version.as_str() {
                "" => "none yet",
                version => version,
            };
            format!("{version} on {}", count.devices)
        });
        with_rest(
            agents.collect(),
            self.summary.agent_versions_left,
            "version",
        )
    }

    fn runs(&self) -> String {
        let releases = self.summary.releases.iter().map(|count| {
            let version = match count.version.as_str() {
                "" => "?",
                version => version,
            };
            format!("{}:{version} on {}", count.name, count.devices)
        });
        with_rest(releases.collect(), self.summary.releases_left, "release")
    }
}

fn views(deployments: &[v1::Deployment]) -> Vec<DeploymentView> {
    let deployments = deployments.iter().cloned();
    deployments.map(DeploymentView::from).collect()
}

/// The counts that are not zero.
fn some(parts: &[(u64, &str)]) -> String {
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    parts.join(", ")
}

fn with_rest(mut parts: Vec<String>, left: u64, what: &str) -> String {
    if left > 0 {
        parts.push(format!("and {left} more {}", plural(left, what)));
    }
    parts.join(", ")
}

impl View for StatusView {
    const EMPTY: &'static str = "No devices.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["DEVICES", "AGENTS", "RUNS"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![
            Field::plain(self.devices()),
            Field::plain(self.agents()),
            Field::plain(self.runs()),
        ]
    }

    fn name(&self) -> String {
        self.counts().total.to_string()
    }
}

impl Details for StatusView {
    fn details(&self, _wide: bool, _now: Time) -> Vec<(&'static str, Field)> {
        let mut lines = vec![("Devices", Field::plain(self.devices()))];
        let notable = self.notable();
        if !notable.is_empty() {
            lines.push(("Of these", Field::plain(notable)));
        }
        if !self.summary.agent_versions.is_empty() {
            lines.push(("Agents", Field::plain(self.agents())));
        }
        if !self.summary.releases.is_empty() {
            lines.push(("Run", Field::plain(self.runs())));
        }
        let open = self.summary.open_deployments.len() as u64 + self.open_left();
        lines.push(("Deployments", Field::plain(format!("{open} open"))));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Printer};

    #[test]
    fn a_fleet_is_told_in_a_few_lines_and_what_is_left_out_is_counted() {
        let release = |version: &str, devices| v1::ReleaseCount {
            name: "tool".into(),
            version: version.into(),
            devices,
        };
        let view = StatusView::from(v1::GetFleetSummaryResponse {
            devices: Some(v1::DeviceCounts {
                total: 30_000,
                online: 29_871,
                offline: 102,
                conflicted: 27,
                drifted: 14,
                never_seen: 1,
                ..Default::default()
            }),
            agent_versions: vec![
                v1::AgentVersionCount {
                    agent_version: "0.1.0".into(),
                    devices: 29_999,
                },
                v1::AgentVersionCount {
                    agent_version: String::new(),
                    devices: 1,
                },
            ],
            releases: vec![release("2.0", 29_000), release("1.0", 900)],
            releases_left: 3,
            open_deployments_left: 2,
            ..Default::default()
        });
        let text = Printer::plain(Format::Table)
            .render_one(&view, Time::at(0))
            .unwrap();
        insta::assert_snapshot!(text, @r"
        Devices:      30000: 29871 online, 102 offline, 27 conflicted
        Of these:     14 drifted, 1 never seen
        Agents:       0.1.0 on 29999, none yet on 1
        Run:          tool:2.0 on 29000, tool:1.0 on 900, and 3 more releases
        Deployments:  2 open
        ");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let empty = StatusView::from(v1::GetFleetSummaryResponse::default());
        assert_eq!(empty.devices(), "0");
        let alike = |total| {
            let devices = v1::DeviceCounts {
                total,
                online: total,
                ..Default::default()
            };
            StatusView::from(v1::GetFleetSummaryResponse {
                devices: Some(devices),
                ..Default::default()
            })
        };
        assert_eq!(alike(4).devices(), "4, all online");
        assert_eq!(alike(1).devices(), "1 online");
    }
}
