//! `deploy --plan`: which devices would run it and which would fail, before anything is changed.

use std::collections::BTreeMap;

use kernex_proto::v1;

use super::whole_canary;
use crate::{
    client::Client,
    error::{Exit, Failure},
    output::{Printer, Time, counted, plan::PlanView, print_note},
};

/// Asks the devices, prints their answers, and fails when a device would fail.
pub(super) async fn run(
    client: &Client,
    deployment: v1::CreateDeploymentRequest,
    printer: Printer,
    all: bool,
    canary: Option<u32>,
) -> Result<(), Failure> {
    let request = v1::PlanDeploymentRequest {
        deployment: Some(deployment),
    };
    let plan = client.plans().plan_deployment(request).await?.into_inner();
    let devices: Vec<PlanView> = plan.devices.into_iter().map(PlanView::from).collect();
    show(printer, &devices, all)?;
    if let Some(at) = Time::from_wire(plan.opens_at) {
        print_note(&format!("Nothing would begin before {at}."));
    }
    if let Some(note) = canary.and_then(|canary| whole_canary(canary, devices.len() as u64)) {
        print_note(&note);
    }
    verdict(&plan.bundle, &devices)
}

/// Up to this many answers are all printed.
const FEW: usize = 10;

/// Prints every answer when there are few. Of many it prints the counts and some answers, first
/// those that need attention.
fn show(printer: Printer, devices: &[PlanView], all: bool) -> Result<(), Failure> {
    if all || printer.wide() || !printer.for_people() {
        return printer.list(devices);
    }
    let mut first: Vec<&PlanView> = devices.iter().collect();
    if devices.len() > FEW {
        first.sort_by_key(|plan| (!plan.would_fail(), !plan.is_unknown()));
    }
    let shown: Vec<PlanView> = first.into_iter().take(FEW).cloned().collect();
    printer.list(&shown)?;
    if let Some(summary) = summary(devices, shown.len()) {
        print_note(&summary);
    }
    Ok(())
}

/// How many devices would do what; none for a single one.
fn summary(devices: &[PlanView], shown: usize) -> Option<String> {
    if devices.len() < 2 {
        return None;
    }
    let mut counts = BTreeMap::<String, u64>::new();
    for plan in devices {
        *counts.entry(plan.verdict()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(verdict, n)| format!("{n} {verdict}"))
        .collect();
    let mut summary = format!(
        "{}: {}.",
        counted(devices.len() as u64, "device"),
        counts.join(", ")
    );
    let left = devices.len() - shown;
    if left > 0 {
        summary.push_str(&format!(" {left} more are shown with `--all`."));
    }
    Some(summary)
}

fn verdict(bundle: &str, devices: &[PlanView]) -> Result<(), Failure> {
    let failing = devices.iter().filter(|plan| plan.would_fail()).count();
    let unknown = devices.iter().filter(|plan| plan.is_unknown()).count();
    let all = counted(devices.len() as u64, "device");
    if unknown > 0 {
        print_note(&format!(
            "{unknown} of {all} could not be asked; a deployment waits for them until its delivery timeout."
        ));
    }
    if failing > 0 {
        return Err(Failure::new(
            Exit::DeploymentFailed,
            format!("{bundle} would fail on {failing} of {all}"),
            "See the notes above; nothing was changed.",
        ));
    }
    print_note("Nothing was changed. Leave `--plan` out to deploy.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_devices_are_summed_up() {
        let plan = |verdict: v1::PlanVerdict| {
            PlanView::from(v1::DevicePlan {
                verdict: verdict.into(),
                ..Default::default()
            })
        };
        let fails = || plan(v1::PlanVerdict::WouldFail);
        let offline = || plan(v1::PlanVerdict::Offline);
        assert_eq!(summary(&[fails()], 1), None);
        let three = [fails(), offline(), fails()];
        let said = summary(&three, 3).unwrap();
        assert_eq!(said, "3 devices: 1 offline, 2 would_fail.");
        let said = summary(&three, 2).unwrap();
        assert!(said.ends_with(" 1 more are shown with `--all`."), "{said}");
    }
}
