//! The agent's journal: repeated commands, commands it does not know, restored servers.

use std::{fs, path::Path};

use kernex_integration_tests::{
    BundleBuilder, Database, TestAgent, TestServer, both_databases, fake_server::FakeServer,
    wait::seen, wait_for,
};
use kernex_proto::v1::{
    AttemptRef, AttemptState, Deploy, FailureReason, HeldAttempt, Plan, Stop, command,
    device_session_request as up, report,
};
use rustix::process::Signal;

fn lines(witness: &Path) -> usize {
    fs::read_to_string(witness)
        .unwrap_or_default()
        .lines()
        .count()
}

async fn witnessed(witness: &Path, then: &str) -> Vec<u8> {
    let script = format!("echo ran >> {}; {then}", witness.display());
    BundleBuilder::script("app", "1.0", &script).gzip().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_command_is_answered_from_the_journal_and_never_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let mut server = FakeServer::start().await;
    let mut agent = server.agent(folder.path());
    let deploy = server.bundle("app", witnessed(&witness, "true").await);
    let attempt = server
        .command(Some(command::Action::Deploy(deploy.clone())))
        .await;
    let first = server.outcome(attempt).await;
    assert_eq!(first.state(), AttemptState::Succeeded, "{first:?}");

    server
        .command_for(attempt, Some(command::Action::Deploy(deploy.clone())))
        .await;
    assert_eq!(server.outcome(attempt).await, first, "the same answer");
    agent.kill();
    agent.start_again();
    server
        .next_where("a new session", |message| {
            matches!(message, up::Message::Ready(_)).then_some(())
        })
        .await;
    server
        .command_for(attempt, Some(command::Action::Deploy(deploy)))
        .await;
    assert_eq!(server.outcome(attempt).await, first, "over a crash, too");
    assert_eq!(lines(&witness), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_cut_off_by_a_crash_is_interrupted_and_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let mut server = FakeServer::start().await;
    let mut agent = server.agent(folder.path());
    let deploy = server.bundle("app", witnessed(&witness, "exec sleep 600.125").await);
    let attempt = server.command(Some(command::Action::Deploy(deploy))).await;
    wait_for("the script to run", || async {
        seen(lines(&witness) == 1, lines(&witness))
    })
    .await;
    agent.kill();
    agent.start_again();
    let held = server
        .next_where("what it still holds", |message| match message {
            up::Message::Hello(hello) if !hello.held_attempts.is_empty() => {
                Some(hello.held_attempts)
            }
            _ => None,
        })
        .await;
    assert_eq!(
        held.iter()
            .map(|held: &HeldAttempt| held.attempt.clone())
            .collect::<Vec<_>>(),
        [Some(attempt.into())]
    );
    let outcome = server.outcome(attempt).await;
    assert_eq!(
        (outcome.state(), outcome.reason()),
        (AttemptState::Failed, FailureReason::Interrupted)
    );
    assert_eq!(lines(&witness), 1, "it did not start again");
    for pid in kernex_integration_tests::process::processes_with("sleep 600.125") {
        // A power cut would have ended the script. The agent may have found it or not.
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_for_an_attempt_that_never_came_keeps_it_from_running() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let mut server = FakeServer::start().await;
    let _agent = server.agent(folder.path());
    let attempt = server
        .command(Some(command::Action::Stop(Stop::default())))
        .await;
    assert_eq!(
        server.outcome(attempt).await.state(),
        AttemptState::Cancelled
    );
    let deploy = server.bundle("app", witnessed(&witness, "true").await);
    server
        .command_for(attempt, Some(command::Action::Deploy(deploy)))
        .await;
    assert_eq!(
        server.outcome(attempt).await.state(),
        AttemptState::Cancelled
    );
    assert_eq!(lines(&witness), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_is_answered_unsupported_and_the_session_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let _agent = server.agent(folder.path());
    let attempt = server.command(None).await;
    let outcome = server.outcome(attempt).await;
    assert_eq!(
        outcome.reason(),
        FailureReason::Unsupported,
        "a kind of command of times to come"
    );
    for action in [command::Action::Plan(Plan::default())] {
        let attempt = server.command(Some(action.clone())).await;
        let answer = server.unsupported().await;
        assert_eq!(answer.attempt, Some(attempt.into()), "{action:?}");
        assert!(!answer.detail.is_empty());
    }
    server.send(None).await;
    assert_eq!(server.unsupported().await.attempt, None);
    server.heartbeat().await;
    let archive = BundleBuilder::script("app", "1.0", "true").gzip().await;
    let outcome = server.outcome_of(server.bundle("app", archive)).await;
    assert_eq!(
        outcome.state(),
        AttemptState::Succeeded,
        "it goes on working"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_is_sent_before_anything_runs_and_sequence_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let mut agent = server.agent(folder.path());
    let mut numbers = Vec::new();
    for version in ["1.0", "2.0"] {
        let archive = BundleBuilder::script("app", version, "true").gzip().await;
        let attempt = server
            .command(Some(command::Action::Deploy(server.bundle("app", archive))))
            .await;
        for wanted in ["accepted", "outcome"] {
            numbers.push(
                server
                    .next_where(wanted, |message| match message {
                        up::Message::Report(report) if report.attempt == Some(attempt.into()) => {
                            match report.event {
                                Some(report::Event::Accepted(_)) if wanted == "accepted" => {
                                    Some(report.seq)
                                }
                                Some(report::Event::Outcome(_)) if wanted == "outcome" => {
                                    Some(report.seq)
                                }
                                _ => None,
                            }
                        }
                        _ => None,
                    })
                    .await,
            );
        }
        agent.stop();
        agent.start_again();
        server
            .next_where("a new session", |message| {
                matches!(message, up::Message::Ready(_)).then_some(())
            })
            .await;
    }
    assert!(
        numbers[0] > 0 && numbers.is_sorted_by(|a, b| a < b),
        "{numbers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_download_makes_the_agent_open_a_new_session() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let mut server = FakeServer::start().await;
    server.doubt(1);
    let agent = server.agent(folder.path());
    let deploy = server.bundle("app", witnessed(&witness, "true").await);
    let attempt = server.command(Some(command::Action::Deploy(deploy))).await;
    // Only the refused download tells the agent that its token is no longer good.
    let outcome = server.outcome(attempt).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert!(
        agent
            .process()
            .has_said("downloads fail on it although it lives", 0)
    );
    assert_eq!(lines(&witness), 1);
}

/// An invalid deploy, which the agent answers with a failed outcome at once.
fn nothing() -> Option<command::Action> {
    Some(command::Action::Deploy(Deploy::default()))
}

/// The next outcome: its attempt, its number, and the number of the one before it.
async fn told(server: &mut FakeServer) -> (AttemptRef, u64, Option<u64>) {
    server
        .next_where("an outcome", |message| match message {
            up::Message::Report(report) => {
                let is_outcome = matches!(report.event, Some(report::Event::Outcome(_)));
                let told = (report.attempt?, report.seq, report.previous_outcome_seq);
                is_outcome.then_some(told)
            }
            _ => None,
        })
        .await
}

/// Makes an agent end `count` attempts, acknowledges them and returns their numbers. Nothing else
/// may end meanwhile.
async fn outcomes(server: &mut FakeServer, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        let attempt = server.command(nothing()).await;
        let (of, seq, _) = told(server).await;
        assert_eq!(of, attempt.into(), "nothing is told again");
        seqs.push(seq);
    }
    // The agent has read the answers before this.
    server.send(None).await;
    server.unsupported().await;
    seqs
}

async fn restart(server: &mut FakeServer, agent: &mut TestAgent, recorded: Option<u64>) {
    agent.stop();
    server.has_recorded(recorded);
    agent.start_again();
    let ready = |message| matches!(message, up::Message::Ready(_)).then_some(());
    server.next_where("a new session", ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_a_restored_server_lost_are_sent_again_in_order_and_in_pages() {
    const AT_ONCE: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let mut server = FakeServer::start().await;
    let mut agent = server.agent(folder.path());
    let mut seqs = outcomes(&mut server, 40).await;
    // A server that names no number, and one that has everything, get new outcomes only.
    restart(&mut server, &mut agent, None).await;
    seqs.extend(outcomes(&mut server, 1).await);
    restart(&mut server, &mut agent, seqs.last().copied()).await;
    seqs.extend(outcomes(&mut server, 1).await);
    // A backup that has three of them. While no report is acknowledged only one page is sent;
    // outcomes that come meanwhile wait behind it.
    server.acknowledge(false);
    restart(&mut server, &mut agent, Some(seqs[2])).await;
    for place in 3..3 + AT_ONCE {
        let (_, seq, before) = told(&mut server).await;
        assert_eq!((seq, before), (seqs[place], Some(seqs[place - 1])));
    }
    let late = server.command(nothing()).await;
    for _ in 0..3 {
        let is_outcome = |message| match message {
            up::Message::Heartbeat(_) => Some(false),
            up::Message::Report(report) => {
                matches!(report.event, Some(report::Event::Outcome(_))).then_some(true)
            }
            _ => None,
        };
        assert!(!server.next_where("a heartbeat", is_outcome).await);
    }
    server.acknowledge(true);
    restart(&mut server, &mut agent, Some(seqs[2])).await;
    for place in 3..seqs.len() {
        let (_, seq, before) = told(&mut server).await;
        assert_eq!((seq, before), (seqs[place], Some(seqs[place - 1])));
    }
    let (of, _, before) = told(&mut server).await;
    assert_eq!((of, before), (late.into(), seqs.last().copied()));
    // Outcomes that are acknowledged are not sent again.
    let _ = outcomes(&mut server, 1).await;
}

both_databases![a_script_of_a_damaged_journal_is_killed_before_anything_else_starts];

async fn a_script_of_a_damaged_journal_is_killed_before_anything_else_starts(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let witness = server.scratch().join("pid");
    let script = format!(
        "echo $$ > {}; while true; do sleep 0.05; done",
        witness.display()
    );
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let pid = wait_for("the script to run", || async {
        let text = fs::read_to_string(&witness)
            .unwrap_or_default()
            .trim()
            .to_owned();
        seen(!text.is_empty(), text)
    })
    .await;
    agent.kill();
    fs::write(agent.state.join("journal.redb"), vec![0xa5; 100_000]).unwrap();
    agent.start_again();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.reason(), FailureReason::JournalLost, "{target:?}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    let said = agent.process().tail();
    assert!(
        said.contains("A SCRIPT RUNS THAT THE JOURNAL DOES NOT KNOW") && said.contains("app:1.0"),
        "{said}"
    );
}
