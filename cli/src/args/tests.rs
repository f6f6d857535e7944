//! What can be typed and what it means.

use std::time::Duration;

use super::{bundle::BundleCommand, deployment::DeploymentCommand, device::DeviceCommand, *};
use crate::output::Format;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn a_deployment_needs_devices() {
    assert!(parse("kernexctl deploy hello:1.0").is_err());
    assert!(parse("kernexctl deploy hello:1.0 --timeout 5m --to *").is_err());
    let cli =
        parse("kernexctl deploy hello:1.0 --to a=b --device x --device y --watch --timeout 5m")
            .unwrap();
    let Command::Deploy(deploy) = cli.command else {
        panic!()
    };
    assert_eq!(deploy.devices, ["x", "y"]);
    assert_eq!(deploy.to.as_deref(), Some("a=b"));
    assert_eq!(deploy.order.timeout, Some(Duration::from_secs(300)));
}

#[test]
fn deploy_and_rollback_take_the_same_limits_and_note() {
    const LIMITS: &str = "--delivery-timeout 2d --execution-timeout 30m -m nightly --watch";
    let read = |verb: &str| match parse(&format!("kernexctl {verb} {LIMITS}"))
        .unwrap()
        .command
    {
        Command::Deploy(deploy) => deploy.order,
        Command::Deployment(DeploymentCommand::Rollback(rollback)) => rollback.order,
        other => panic!("{other:?}"),
    };
    for verb in ["deploy hello:1.0 --to *", "deployment rollback 0198"] {
        let order = read(verb);
        assert_eq!(order.delivery_seconds(), 2 * 86_400, "{verb}");
        assert_eq!(order.execution_seconds(), 1800, "{verb}");
        assert_eq!(order.message(), "nightly", "{verb}");
        assert!(order.watch && order.timeout.is_none(), "{verb}");
        assert!(parse(&format!("kernexctl {verb} --timeout 5m")).is_err());
        assert!(parse(&format!("kernexctl {verb} --watch --plan")).is_err());
    }
}

#[test]
fn a_context_needs_exactly_one_token() {
    let add = "kernexctl context add x --server https://h:7443 --ca ca.pem";
    assert!(parse(add).is_err());
    assert!(parse(&format!("{add} --token a --token-file b")).is_err());
    assert!(parse(&format!("{add} --token a")).is_ok());
    assert!(parse(&format!("{add} --token-file a")).is_ok());
}

#[test]
fn labels_are_set_and_removed() {
    let cli = parse("kernexctl device label edge-1 site=berlin canary- --context x").unwrap();
    assert_eq!(cli.context.as_deref(), Some("x"));
    let Command::Device(DeviceCommand::Label {
        device, changes, ..
    }) = cli.command
    else {
        panic!()
    };
    assert_eq!(device.as_deref(), Some("edge-1"));
    assert_eq!(changes, ["site=berlin", "canary-"]);
    assert!(parse("kernexctl device label").is_err());
    assert!(parse("kernexctl device label -l site=berlin wave=2").is_ok());
}

#[test]
fn output_means_a_format_for_lists_and_a_file_for_packing() {
    let Command::Bundle(BundleCommand::Pack { file, .. }) =
        parse("kernexctl bundle pack . -o a.tar.gz")
            .unwrap()
            .command
    else {
        panic!()
    };
    assert_eq!(file.path, Some("a.tar.gz".into()));
    let Command::Device(DeviceCommand::List { output, .. }) =
        parse("kernexctl device list -o json").unwrap().command
    else {
        panic!()
    };
    assert_eq!(output.output, Format::Json);
}

#[test]
fn a_format_may_stand_anywhere() {
    for line in [
        "kernexctl -o json device list",
        "kernexctl device -o json list",
        "kernexctl device list --output=json",
        "kernexctl -o yaml device list -o json",
    ] {
        let Command::Device(DeviceCommand::List { output, .. }) = parse(line).unwrap().command
        else {
            panic!()
        };
        assert_eq!(output.output, Format::Json, "{line}");
    }
    assert!(parse("kernexctl -o nonsense device list").is_err());
    let Command::Device(DeviceCommand::List { output, .. }) =
        parse("kernexctl device list").unwrap().command
    else {
        panic!()
    };
    assert_eq!(output.output, Format::Table);
}

#[test]
fn a_deadline_in_the_past_is_told_by_its_flag() {
    let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let ends = |deadline: &str| {
        let line = format!("kernexctl deploy tool:1.0 --to * --deadline {deadline}");
        let Command::Deploy(deploy) = parse(&line).unwrap().command else {
            panic!()
        };
        deploy.timing.ends_in_the_past(now)
    };
    assert!(ends("2020-01-01T00:00:00Z"));
    assert!(!ends("2030-01-01T00:00:00Z") && !ends("2h"));
}

#[test]
fn flags_have_the_names_of_other_programs_too() {
    for line in [
        "kernexctl deploy tool:1.0 --to * --dry-run",
        "kernexctl deploy tool:1.0 --to * --wait",
        "kernexctl deploy tool:1.0 --to * --at 2h",
        "kernexctl deploy tool:1.0 --to * --at +2h",
        "kernexctl deploy tool:1.0 --to * --at 2027-02-03T04:05:00Z",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    for line in [
        "kernexctl deploy tool:1.0 --to * --at soon",
        "kernexctl deploy tool:1.0 --to * --at 2027-02-03T04:05:00",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn the_verb_may_come_first() {
    for line in [
        "kernexctl get devices",
        "kernexctl get devices -l site=berlin --status offline -o wide",
        "kernexctl get device edge-1",
        "kernexctl describe deployment 01a22470-1f3c",
        "kernexctl ls bundles",
        "kernexctl device ls",
        "kernexctl devices list",
        "kernexctl rm device edge-1 --yes",
        "kernexctl delete bundle tool:1.0",
        "kernexctl fleet",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}
