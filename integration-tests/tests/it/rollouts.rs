//! Rollouts in phases: what opens the next phase, what pauses, and what an operator may do then.

use std::{collections::HashMap, fs, time::Duration};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Database, Operator, ServerOptions, TestServer, both_databases,
    raw_agent::{RawSession, failed, succeeded},
    wait::{seen, wait_for},
};
use kernex_proto::v1::{
    AttemptState, Command, CreateDeploymentRequest, Deploy, Deployment, DeploymentResult,
    DeploymentState, DisruptionBudget, FailureReason, PauseDeploymentRequest, Phase,
    PromoteDeploymentRequest, ResumeDeploymentRequest, RetryDeploymentRequest, Rollout,
    phase::{MaxFailures, Size},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn count(count: u32) -> Phase {
    Phase {
        size: Some(Size::Count(count)),
        ..Phase::default()
    }
}

fn phases(phases: Vec<Phase>) -> Rollout {
    Rollout {
        phases,
        ..Rollout::default()
    }
}

/// Orders a bundle that does nothing for every device.
async fn order(operator: &Operator, rollout: Rollout) -> Result<String, Status> {
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let bundle = operator.push(&archive).await;
    operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest,
            selector: "*".into(),
            rollout: Some(rollout),
            ..Default::default()
        })
        .await
}

async fn standing(operator: &Operator, id: &str, state: DeploymentState) -> Deployment {
    wait_for(&format!("the deployment to be {state:?}"), || async {
        let deployment = operator.deployment(id).await;
        seen(deployment.state() == state, deployment)
    })
    .await
}

async fn resume(operator: &Operator, id: &str) -> Result<(), Status> {
    let request = ResumeDeploymentRequest {
        deployment_id: id.into(),
        ..Default::default()
    };
    operator
        .rollouts()
        .resume_deployment(request)
        .await
        .map(drop)
}

async fn pause(operator: &Operator, id: &str, reason: &str) -> Result<(), Status> {
    let request = PauseDeploymentRequest {
        deployment_id: id.into(),
        reason: reason.into(),
        ..Default::default()
    };
    operator
        .rollouts()
        .pause_deployment(request)
        .await
        .map(drop)
}

async fn promote(operator: &Operator, id: &str, phase: u32) -> Result<(), Status> {
    let request = PromoteDeploymentRequest {
        deployment_id: id.into(),
        phase,
        ..Default::default()
    };
    operator
        .rollouts()
        .promote_deployment(request)
        .await
        .map(drop)
}

async fn retry(operator: &Operator, id: &str, devices: &[&str]) -> Result<(u32, u32), Status> {
    let request = RetryDeploymentRequest {
        deployment_id: id.into(),
        devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let answer = operator.rollouts().retry_deployment(request).await?;
    let answer = answer.into_inner();
    Ok((answer.retried, answer.left_out))
}

/// Devices the test speaks for.
struct Fleet {
    sessions: HashMap<String, RawSession>,
}

impl Fleet {
    async fn of(server: &TestServer, names: &[&str]) -> Self {
        // Making a key may take longer than a session may be silent, so everybody enrols first.
        let mut devices = Vec::new();
        for name in names {
            devices.push(server.raw_device(name).await);
        }
        let mut sessions = HashMap::new();
        for mut device in devices {
            let session = device.connect(server).await;
            server.operator().online(&device.name).await;
            sessions.insert(device.name, session);
        }
        Self { sessions }
    }

    fn session(&mut self, name: &str) -> &mut RawSession {
        self.sessions.get_mut(name).expect("one of the fleet")
    }

    /// Takes the command of a device that was released.
    async fn take(&mut self, name: &str) -> (Command, Deploy) {
        let (command, deploy) = self.session(name).deploy_command().await;
        self.session(name).accept(&command, 1).await;
        (command, deploy)
    }

    async fn succeed(&mut self, name: &str) {
        let (command, deploy) = self.take(name).await;
        self.session(name)
            .outcome(&command, 2, succeeded(&deploy))
            .await;
    }

    async fn fail(&mut self, name: &str) {
        let (command, _) = self.take(name).await;
        let outcome = failed(FailureReason::ScriptFailed, "it broke");
        self.session(name).outcome(&command, 2, outcome).await;
    }
}

/// Names of the devices in these states.
async fn in_states(operator: &Operator, id: &str, states: &[AttemptState]) -> Vec<String> {
    let targets = operator.targets(id).await.into_iter();
    let found = targets.filter(|target| states.contains(&target.state()));
    found.map(|target| target.device_name).collect()
}

const IN_FLIGHT: &[AttemptState] = &[
    AttemptState::Pending,
    AttemptState::Sent,
    AttemptState::Accepted,
    AttemptState::Running,
];

/// Waits until so many are in flight, and never sees more; names them.
async fn in_flight(operator: &Operator, id: &str, n: usize) -> Vec<String> {
    wait_for(&format!("{n} devices to be in flight"), || async {
        let names = in_states(operator, id, IN_FLIGHT).await;
        assert!(names.len() <= n, "more than {n} in flight: {names:?}");
        seen(names.len() == n, names)
    })
    .await
}

fn field(status: &Status) -> String {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone());
    violations
        .and_then(|all| all.first().map(|one| one.field.clone()))
        .unwrap_or_default()
}

both_databases![
    each_phase_opens_when_the_one_before_succeeded,
    a_failed_canary_pauses_the_rollout_until_it_is_fixed,
    failures_within_the_limit_are_tolerated_and_one_more_pauses,
    a_phase_soaks_before_the_next_one_opens,
    no_more_targets_are_in_flight_than_allowed,
    a_budget_holds_for_each_value_of_its_label,
    an_operator_approves_each_phase_and_approving_twice_opens_one,
    a_paused_deployment_begins_nowhere_not_even_on_a_device_that_comes_back,
    a_retry_waits_until_the_device_has_answered_the_attempt_before,
    a_retry_leaves_out_devices_that_a_newer_deployment_has_reached,
    invalid_rollouts_are_refused_with_the_field,
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", &script).gzip().await)
        .await;
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

async fn failures_within_the_limit_are_tolerated_and_one_more_pauses(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b", "c", "d"]).await;
    let lenient = Phase {
        max_failures: Some(MaxFailures::MaxFailuresCount(1)),
        ..count(3)
    };
    let id = order(&operator, phases(vec![lenient])).await.unwrap();
    let first = in_flight(&operator, &id, 3).await;
    fleet.fail(&first[0]).await;
    fleet.succeed(&first[1]).await;
    assert_eq!(
        operator.deployment(&id).await.state(),
        DeploymentState::Active
    );
    fleet.fail(&first[2]).await;
    let paused = standing(&operator, &id, DeploymentState::Paused).await;
    assert_eq!(
        paused.paused_reason,
        "phase 1: 2 of 3 failed, more than the 1 allowed"
    );
    // Who goes on has seen the failures: the phase has passed without them, and the rest
    // follows.
    resume(&operator, &id).await.unwrap();
    let rest = in_flight(&operator, &id, 1).await;
    fleet.succeed(&rest[0]).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Failed
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

async fn no_more_targets_are_in_flight_than_allowed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b", "c", "d", "e"]).await;
    let id = order(
        &operator,
        Rollout {
            max_in_flight: 2,
            ..Rollout::default()
        },
    )
    .await
    .unwrap();
    for left in (1..=5).rev() {
        let names = in_flight(&operator, &id, left.min(2)).await;
        fleet.succeed(&names[0]).await;
    }
    assert_eq!(operator.finished(&id).await.counts.unwrap().succeeded, 5);
}

async fn a_budget_holds_for_each_value_of_its_label(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a1", "a2", "b1", "b2", "none"]).await;
    for name in ["a1", "a2", "b1", "b2"] {
        operator.label(name, &[("rack", &name[..1])]).await;
    }
    let budgets = vec![DisruptionBudget {
        label: "rack".into(),
        max: 1,
    }];
    let id = order(
        &operator,
        Rollout {
            budgets,
            ..Rollout::default()
        },
    )
    .await
    .unwrap();
    let racks = |names: &[String]| {
        let mut racks: Vec<String> = names.iter().map(|name| name[..1].to_owned()).collect();
        racks.sort_unstable();
        racks
    };
    let first = in_flight(&operator, &id, 3).await;
    assert_eq!(racks(&first), ["a", "b", "n"]);
    let of_a = first
        .iter()
        .find(|name| name.starts_with('a'))
        .unwrap()
        .clone();
    fleet.succeed(&of_a).await;
    let second = wait_for("the other one of rack a", || async {
        let names = in_flight(&operator, &id, 3).await;
        seen(!names.contains(&of_a), names)
    })
    .await;
    assert_eq!(racks(&second), ["a", "b", "n"]);
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
        (unknown.code(), field(&unknown).as_str()),
        (Code::InvalidArgument, "phase")
    );
}

async fn a_paused_deployment_begins_nowhere_not_even_on_a_device_that_comes_back(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    pause(&operator, &id, "a complaint came in").await.unwrap();
    assert_eq!(
        operator.deployment(&id).await.paused_reason,
        "a complaint came in"
    );
    let twice = pause(&operator, &id, "").await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    let mut session = device.connect(&server).await;
    operator.online("edge-1").await;
    // Another order shows that the dispatcher has looked at the device.
    let other = operator
        .push(&BundleBuilder::script("other", "1.0", "true").gzip().await)
        .await;
    operator.deploy(&other, &["edge-1"]).await;
    assert_eq!(session.deploy_command().await.1.name, "other");
    resume(&operator, &id).await.unwrap();
    assert_eq!(session.deploy_command().await.1.name, "app");
    let running = resume(&operator, &id).await.unwrap_err();
    assert_eq!(running.code(), Code::FailedPrecondition);
}

async fn a_retry_waits_until_the_device_has_answered_the_attempt_before(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["edge-1"]).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest.clone(),
            selector: "*".into(),
            execution_timeout_seconds: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let (first, _) = fleet.take("edge-1").await;
    operator.target_in(&id, &[AttemptState::Expired]).await;
    let stop = fleet.session("edge-1").command().await;
    assert!(
        stop.action
            .is_some_and(|action| matches!(action, kernex_proto::v1::command::Action::Stop(_)))
    );
    assert_eq!(retry(&operator, &id, &["edge-1"]).await.unwrap(), (1, 0));
    let again = operator.deployment(&id).await;
    assert_eq!(
        (again.state(), again.result()),
        (DeploymentState::Active, DeploymentResult::Unspecified)
    );
    // Another order shows that the dispatcher has looked, and the second attempt was not among
    // what it pushed.
    let other = operator
        .push(&BundleBuilder::script("other", "1.0", "true").gzip().await)
        .await;
    operator.deploy(&other, &["edge-1"]).await;
    let (barrier, deploy) = fleet.session("edge-1").deploy_command().await;
    assert_eq!(deploy.name, "other");
    fleet.session("edge-1").accept(&barrier, 3).await;
    let outcome = failed(FailureReason::ScriptTimeout, "killed");
    fleet.session("edge-1").outcome(&first, 4, outcome).await;
    let (second, deploy) = fleet.session("edge-1").deploy_command().await;
    assert_eq!(
        second.attempt.as_ref().map(|attempt| attempt.attempt),
        Some(2)
    );
    fleet
        .session("edge-1")
        .outcome(&second, 5, succeeded(&deploy))
        .await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let nothing = retry(&operator, &id, &[]).await.unwrap_err();
    assert_eq!(nothing.code(), Code::FailedPrecondition);
    let stranger = retry(&operator, &id, &["edge-9"]).await.unwrap_err();
    assert_eq!(
        (stranger.code(), field(&stranger).as_str()),
        (Code::InvalidArgument, "devices")
    );
}

async fn a_retry_leaves_out_devices_that_a_newer_deployment_has_reached(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b"]).await;
    let old = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let id = operator.deploy(&old, &["a", "b"]).await;
    fleet.fail("a").await;
    fleet.fail("b").await;
    operator.finished(&id).await;
    let new = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
    operator.deploy(&new, &["a"]).await;
    assert_eq!(retry(&operator, &id, &[]).await.unwrap(), (1, 1));
    assert_eq!(in_states(&operator, &id, IN_FLIGHT).await, ["b"]);
    let other = retry(&operator, &id, &["a"]).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition, "{other}");
}

async fn invalid_rollouts_are_refused_with_the_field(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let over = Phase {
        success_percent: Some(100.5),
        ..count(1)
    };
    let table = [
        ("rollout.phases[0].success_percent", phases(vec![over])),
        ("rollout.phases[1].count", phases(vec![count(5), count(2)])),
        ("rollout.phases[0].size", phases(vec![Phase::default()])),
        (
            "rollout.approval",
            Rollout {
                approval: true,
                ..Rollout::default()
            },
        ),
        (
            "rollout.budgets[0].max",
            Rollout {
                budgets: vec![DisruptionBudget {
                    label: "rack".into(),
                    max: 0,
                }],
                ..Rollout::default()
            },
        ),
    ];
    for (wanted, rollout) in table {
        let refused = order(&operator, rollout).await.unwrap_err();
        assert_eq!(
            (refused.code(), field(&refused).as_str()),
            (Code::InvalidArgument, wanted)
        );
    }
    let nowhere = "0199d9e8-0000-7000-8000-000000000001";
    assert_eq!(
        resume(&operator, nowhere).await.unwrap_err().code(),
        Code::NotFound
    );
    let bundle = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let unphased = promote(&operator, &id, 0).await.unwrap_err();
    assert_eq!(unphased.code(), Code::FailedPrecondition, "{unphased}");
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
