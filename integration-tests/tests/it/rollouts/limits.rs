//! How many devices may fail, and how many may be in flight.

use kernex_integration_tests::{
    Database, TestServer, both_databases,
    refusal::wrong_field,
    wait::{seen, wait_for},
};
use kernex_proto::v1::{
    DeploymentResult, DeploymentState, DisruptionBudget, Phase, Rollout, phase::MaxFailures,
};
use tonic::Code;

use super::{Fleet, count, in_flight, order, phases, promote, resume, standing};

both_databases![
    failures_within_the_limit_are_tolerated_and_one_more_pauses,
    no_more_targets_are_in_flight_than_allowed,
    a_budget_holds_for_each_value_of_its_label,
    invalid_rollouts_are_refused_with_the_field,
];

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
    // An operator who resumes has seen the failures: the phase has passed without those devices,
    // and the rest follows.
    resume(&operator, &id).await.unwrap();
    let rest = in_flight(&operator, &id, 1).await;
    fleet.succeed(&rest[0]).await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Failed
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
            (refused.code(), wrong_field(&refused).as_str()),
            (Code::InvalidArgument, wanted)
        );
    }
    let nowhere = "0199d9e8-0000-7000-8000-000000000001";
    assert_eq!(
        resume(&operator, nowhere).await.unwrap_err().code(),
        Code::NotFound
    );
    let bundle = operator.push_script("app", "2.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let unphased = promote(&operator, &id, 0).await.unwrap_err();
    assert_eq!(unphased.code(), Code::FailedPrecondition, "{unphased}");
}
