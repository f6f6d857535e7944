//! What opens the next phase.

use std::{fs, time::Duration};

use kernex_integration_tests::{
    AgentOptions, Database, ServerOptions, TestServer, both_databases,
    refusal::wrong_field,
    wait::{seen, wait_for},
};
use kernex_proto::v1::{
    AttemptState, CreateDeploymentRequest, DeploymentResult, DeploymentState, Phase, Rollout,
};
use tonic::Code;

use super::{Fleet, count, in_flight, in_states, order, phases, promote, resume, retry, standing};

both_databases![
    each_phase_opens_when_the_one_before_succeeded,
    a_failed_canary_pauses_the_rollout_until_it_is_fixed,
    a_phase_soaks_before_the_next_one_opens,
    an_operator_approves_each_phase_and_approving_twice_opens_one,
    two_servers_open_each_phase_once_and_one_that_is_killed_loses_nothing,
    a_rollout_goes_on_after_the_server_was_killed,
];

async fn each_phase_opens_when_the_one_before_succeeded(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3", "edge-4"] {
        agents.push(server.agent(name).await);
    }
    let id = order(&operator, phases(vec![count(1), count(2)]))
        .await
        .unwrap();
    let first = operator.deployment(&id).await;
    assert_eq!(first.phases.len(), 3, "the rest follows: {first:?}");
    let done = operator.finished(&id).await;
    assert_eq!(done.result(), DeploymentResult::Succeeded);
    let sizes: Vec<u32> = done
        .phases
        .iter()
        .map(|phase| phase.counts.unwrap().total)
        .collect();
    assert_eq!(sizes, [1, 1, 2]);
    let nanos = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos)).unwrap();
    for pair in done.phases.windows(2) {
        assert!(
            nanos(pair[0].soaked_at) <= nanos(pair[1].opened_at),
            "{done:?}"
        );
    }
    assert_eq!((done.phase, done.counts.unwrap().succeeded), (3, 4));
}

async fn a_failed_canary_pauses_the_rollout_until_it_is_fixed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let witness = server.scratch().join("witness");
    let fixed = server.scratch().join("fixed");
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        agents.push(server.agent(name).await);
    }
    let script = format!(
        "echo ran >> {}; test -e {}",
        witness.display(),
        fixed.display()
    );
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest,
            selector: "*".into(),
            rollout: Some(phases(vec![count(1)])),
            ..Default::default()
        })
        .await
        .unwrap();
    let paused = standing(&operator, &id, DeploymentState::Paused).await;
    assert_eq!(paused.paused_reason, "phase 1: 1 of 1 failed");
    let counts = paused.counts.unwrap();
    assert_eq!((counts.failed, counts.held), (1, 2));
    assert_eq!(fs::read_to_string(&witness).unwrap().lines().count(), 1);

    fs::write(&fixed, "").unwrap();
    assert_eq!(retry(&operator, &id, &[]).await.unwrap(), (1, 0));
    let held = in_states(&operator, &id, &[AttemptState::Held]).await;
    assert_eq!(held.len(), 3, "a retry begins once the deployment goes on");
    resume(&operator, &id).await.unwrap();
    let done = operator.finished(&id).await;
    assert_eq!(
        done.result(),
        DeploymentResult::Succeeded,
        "{:#?}",
        operator.targets(&id).await
    );
    let mut attempts: Vec<u32> = operator
        .targets(&id)
        .await
        .iter()
        .map(|target| target.attempt)
        .collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 2]);
    assert_eq!(
        fs::read_to_string(&witness).unwrap().lines().count(),
        4,
        "each attempt ran once"
    );
}

async fn a_phase_soaks_before_the_next_one_opens(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b"]).await;
    let soaking = Phase {
        soak_seconds: 2,
        ..count(1)
    };
    let id = order(&operator, phases(vec![soaking])).await.unwrap();
    let first = in_flight(&operator, &id, 1).await;
    fleet.succeed(&first[0]).await;
    let second = in_flight(&operator, &id, 1).await;
    assert_ne!(first, second);
    let deployment = operator.deployment(&id).await;
    let micros = |at: Option<prost_types::Timestamp>| {
        at.map(|at| at.seconds * 1_000_000 + i64::from(at.nanos / 1000))
            .unwrap()
    };
    let soaked = micros(deployment.phases[1].opened_at) - micros(deployment.phases[0].passed_at);
    assert!(soaked >= 2_000_000, "opened after {soaked} us");
    fleet.succeed(&second[0]).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
}

async fn an_operator_approves_each_phase_and_approving_twice_opens_one(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b", "c"]).await;
    let asked = Rollout {
        approval: true,
        ..phases(vec![count(1), count(2)])
    };
    let id = order(&operator, asked).await.unwrap();
    let first = in_flight(&operator, &id, 1).await;
    fleet.succeed(&first[0]).await;
    standing(&operator, &id, DeploymentState::AwaitingApproval).await;
    promote(&operator, &id, 2).await.unwrap();
    let again = promote(&operator, &id, 2).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    let second = in_flight(&operator, &id, 1).await;
    assert_eq!(operator.deployment(&id).await.phase, 2);
    // Promoting needs no success: the second phase is still at work.
    promote(&operator, &id, 0).await.unwrap();
    let both = in_flight(&operator, &id, 2).await;
    assert!(both.contains(&second[0]));
    let none_left = promote(&operator, &id, 0).await.unwrap_err();
    assert_eq!(none_left.code(), Code::FailedPrecondition);
    let unknown = promote(&operator, &id, 9).await.unwrap_err();
    assert_eq!(
        (unknown.code(), wrong_field(&unknown).as_str()),
        (Code::InvalidArgument, "phase")
    );
}

async fn two_servers_open_each_phase_once_and_one_that_is_killed_loses_nothing(database: Database) {
    let server = TestServer::start_with(database, ServerOptions::default()).await;
    if server.database_url().is_none() {
        // An embedded database has one server.
        return;
    }
    let mut second = server.replica().await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b", "c", "d"]).await;
    let asked = Rollout {
        max_in_flight: 1,
        ..phases(vec![count(1)])
    };
    let id = order(&operator, asked).await.unwrap();
    for round in 0..4 {
        let names = in_flight(&operator, &id, 1).await;
        fleet.succeed(&names[0]).await;
        if round == 1 {
            second.kill();
        }
    }
    let done = operator.finished(&id).await;
    assert_eq!(done.counts.unwrap().succeeded, 4);
    assert!(
        operator
            .targets(&id)
            .await
            .iter()
            .all(|target| target.attempt == 1)
    );
}

async fn a_rollout_goes_on_after_the_server_was_killed(database: Database) {
    let mut server = TestServer::start(database).await;
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2"] {
        agents.push(server.agent_with(AgentOptions::named(name)).await);
    }
    let soaking = Phase {
        soak_seconds: 1,
        ..count(1)
    };
    let id = order(&server.operator(), phases(vec![soaking]))
        .await
        .unwrap();
    wait_for("the first phase to pass", || async {
        let deployment = server.operator().deployment(&id).await;
        seen(deployment.phases[0].passed_at.is_some(), deployment)
    })
    .await;
    server.kill();
    server.start_again().await;
    let done = server
        .operator()
        .finished_within(&id, Duration::from_secs(90))
        .await;
    assert_eq!(done.result(), DeploymentResult::Succeeded);
}
