//! Deployments to more devices than one SQL statement has parameters for.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::AttemptId, v1::Disposition};
use kernex_server::{
    clock::Timestamp,
    domain::rollout::DeploymentResult,
    store::{DueCommand, IncomingReport, Page, ReportEvent, TargetFilter},
};

use super::fixture::{Fixture, succeeded, token};

/// More than a thirtieth of the bind limit, which is what a row of the widest table takes.
const DEVICES: u32 = 900;

both_databases![a_deployment_to_a_whole_fleet_is_written_in_bulk];

async fn a_deployment_to_a_whole_fleet_is_written_in_bulk(database: Database) {
    let fixture = Fixture::new(database).await;
    let id = fixture.token(token(DEVICES)).await;
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(fixture.enrol(id, &format!("edge-{n}")).await);
    }
    fixture.bundle("app", "1").await;
    fixture.deploy_to("app:1", "*").await;
    let deployment = fixture.deploy_to("app:1", "*").await.deployment;
    assert_eq!(deployment.counts.pending, DEVICES);
    let sessions: Vec<_> = devices.iter().map(|device| (device.id, 1)).collect();
    let due = fixture.store.due_commands(&sessions).await.unwrap();
    assert_eq!(due.len(), DEVICES as usize, "the older order gave way");
    let sent: Vec<(AttemptId, u64)> = due.iter().map(|command| (command.attempt, 1)).collect();
    fixture.store.mark_sent(&sent).await.unwrap();
    assert!(
        fixture
            .store
            .due_commands(&sessions)
            .await
            .unwrap()
            .is_empty()
    );
    for event in [ReportEvent::Accepted, succeeded("1", b"1")] {
        let report = |command: &DueCommand| IncomingReport {
            device: command.device,
            epoch: 1,
            attempt: command.attempt,
            event: event.clone(),
            place: None,
        };
        let reports: Vec<_> = due.iter().map(report).collect();
        let dispositions = fixture.store.apply_reports(&reports).await.unwrap();
        assert!(
            dispositions
                .iter()
                .all(|disposition| *disposition == Some(Disposition::Applied))
        );
    }
    let done = fixture.view.get_deployment(deployment.id).await.unwrap();
    assert_eq!(
        (done.counts.succeeded, done.result),
        (DEVICES, Some(DeploymentResult::Succeeded))
    );
    assert_eq!(
        fixture
            .view
            .changed_targets(deployment.id, Timestamp(0))
            .await
            .unwrap()
            .len(),
        DEVICES as usize
    );
    let first = fixture
        .view
        .list_targets(deployment.id, &TargetFilter::default(), Page::first(1000))
        .await
        .unwrap();
    assert!(
        first.next.is_some()
            && first
                .items
                .iter()
                .all(|target| target.output_tail == "done\u{fffd}")
    );
}
