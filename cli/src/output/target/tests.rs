//! How the devices of a deployment are printed.

use super::*;
use crate::output::{Format, Printer};

fn target(name: &str, state: v1::AttemptState) -> v1::Target {
    v1::Target {
        device_name: name.into(),
        state: state.into(),
        updated_at: Some(prost_types::Timestamp {
            seconds: 100,
            nanos: 0,
        }),
        ..Default::default()
    }
}

#[test]
fn targets_say_how_far_they_are_and_why_they_failed() {
    let targets: Vec<TargetView> = [
        target("edge-1", v1::AttemptState::Succeeded),
        v1::Target {
            progress: Some(v1::Progress {
                step: v1::Step::Download.into(),
                bytes_done: 1 << 20,
                bytes_total: 4 << 20,
                stopped: false,
            }),
            ..target("edge-2", v1::AttemptState::Running)
        },
        v1::Target {
            progress: Some(v1::Progress {
                step: v1::Step::Rollback.into(),
                stopped: true,
                ..Default::default()
            }),
            stop_requested: true,
            ..target("edge-5", v1::AttemptState::Running)
        },
        v1::Target {
            reason: v1::FailureReason::ScriptFailed.into(),
            exit_code: Some(3),
            ..target("edge-3", v1::AttemptState::Failed)
        },
        v1::Target {
            opens_at: Some(prost_types::Timestamp {
                seconds: 300,
                nanos: 0,
            }),
            ..target("edge-4", v1::AttemptState::Pending)
        },
        v1::Target {
            waits_for: v1::WaitReason::Device.into(),
            waits_detail: "server_gone".into(),
            ..target("edge-9", v1::AttemptState::Pending)
        },
        v1::Target {
            waits_for: v1::WaitReason::Room.into(),
            ..target("edge-10", v1::AttemptState::Held)
        },
        v1::Target {
            deferral: Some(v1::TargetDeferral {
                message: "3 players online".into(),
                until: Some(prost_types::Timestamp {
                    seconds: 130,
                    nanos: 0,
                }),
                run: 2,
            }),
            ..target("edge-6", v1::AttemptState::Deferred)
        },
        v1::Target {
            late_outcome: true,
            late: Some(v1::LateOutcome {
                state: v1::AttemptState::Failed.into(),
                reason: v1::FailureReason::ScriptFailed.into(),
                exit_code: Some(4),
                ..Default::default()
            }),
            ..target("edge-7", v1::AttemptState::Expired)
        },
        v1::Target {
            message: "nothing was moved".into(),
            ..target("edge-8", v1::AttemptState::Succeeded)
        },
    ]
    .into_iter()
    .map(TargetView::from)
    .collect();
    let text = Printer::plain(Format::Table)
        .render_list(&targets, Time::at(110))
        .unwrap();
    insta::assert_snapshot!(text, @r"
    DEVICE   STATE      DETAIL                                         CHANGED
    edge-1   succeeded  -                                              10s ago
    edge-2   running    download, 1.00 MiB of 4.00 MiB                 10s ago
    edge-5   running    going back, stopped                            10s ago
    edge-3   failed     script_failed (exit code 3)                    10s ago
    edge-4   pending    begins in 3m                                   10s ago
    edge-9   pending    its device is away: server gone                10s ago
    edge-10  held       waits for its turn                             10s ago
    edge-6   deferred   3 players online, again in 20s                 10s ago
    edge-7   expired    then failed late: script_failed (exit code 4)  10s ago
    edge-8   succeeded  nothing was moved                              10s ago
    ");
}

#[test]
fn failures_are_grouped_by_reason() {
    let failed = |name: &str, reason: v1::FailureReason| {
        TargetView::from(v1::Target {
            reason: reason.into(),
            ..target(name, v1::AttemptState::Failed)
        })
    };
    let mut targets = vec![
        failed("edge-1", v1::FailureReason::ScriptFailed),
        failed("edge-2", v1::FailureReason::HealthCheck),
        TargetView::from(target("edge-3", v1::AttemptState::Succeeded)),
    ];
    targets.extend((10..20).map(|n| failed(&format!("edge-{n}"), v1::FailureReason::HealthCheck)));
    insta::assert_snapshot!(failures(&targets).join("\n"), @r"
    11 failed with health_check: edge-2, edge-10, edge-11, edge-12, edge-13, edge-14, edge-15, edge-16 and 3 more
    1 failed with script_failed: edge-1
    ");
}

#[test]
fn a_value_of_a_newer_server_is_unknown_and_no_error() {
    let view = TargetView::from(v1::Target {
        state: 99,
        ..Default::default()
    });
    assert_eq!(view.state(), "unknown");
}
