//! What a message from the server asks of this agent; a pure function, tested by tables.

use std::time::Duration;

use kernex_proto::{
    ids::{AttemptId, Digest, check_name},
    v1::{self, FailureReason, command::Action, device_session_response::Message},
};

/// A message, understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// Write it into the journal and report that it is accepted.
    Accept(AttemptId, v1::Command),
    /// It cannot be done: answer with an outcome.
    Refuse(AttemptId, v1::Command, Box<v1::Outcome>),
    /// End an attempt.
    Stop(AttemptId, v1::Command),
    /// Answer what a deploy would meet.
    Plan(v1::Plan),
    /// Apply a configuration.
    Configure(v1::Configure),
    /// It is not known here: answer so.
    Unsupported(v1::Unsupported),
    /// A report arrived.
    Ack(u64, v1::Disposition),
    /// Come back later.
    Drain(Duration),
    /// Nothing to do: it only shows that the server lives.
    Nothing,
    /// It is for another session.
    Fenced(u64),
}

/// Understands a message in the session `epoch`.
pub(super) fn understand(message: Option<Message>, epoch: u64) -> Incoming {
    match message {
        Some(Message::Command(command)) => understand_command(command, epoch),
        Some(Message::Ack(ack)) => Incoming::Ack(ack.seq, ack.disposition()),
        Some(Message::Drain(drain)) => {
            Incoming::Drain(Duration::from_millis(drain.reconnect_after_ms))
        }
        Some(Message::HeartbeatAck(_)) => Incoming::Nothing,
        Some(Message::Unsupported(unsupported)) => {
            tracing::warn!(
                why = unsupported.detail,
                "the server does not know a message of ours"
            );
            Incoming::Nothing
        }
        Some(Message::Challenge(_) | Message::Welcome(_)) => {
            unsupported(None, "the session is open already")
        }
        None => unsupported(None, "unknown message"),
    }
}

fn understand_command(command: v1::Command, epoch: u64) -> Incoming {
    if command.epoch != epoch {
        return Incoming::Fenced(command.epoch);
    }
    match command.action {
        Some(Action::Plan(plan)) => {
            return match plan.deploy.as_ref().map(flaw) {
                Some(None) => Incoming::Plan(plan),
                Some(Some(why)) => unsupported(command.attempt, &why),
                None => unsupported(command.attempt, "a plan of nothing"),
            };
        }
        Some(Action::Configure(configure)) => return Incoming::Configure(configure),
        _ => {}
    }
    let id = match command.attempt.as_ref().map(AttemptId::try_from) {
        Some(Ok(id)) => id,
        Some(Err(err)) => return unsupported(command.attempt, &err.to_string()),
        None => return unsupported(None, "a command without an attempt"),
    };
    match &command.action {
        Some(Action::Deploy(deploy)) => match flaw(deploy) {
            None => Incoming::Accept(id, command),
            Some(why) => {
                let outcome = failed(FailureReason::Internal, why);
                Incoming::Refuse(id, command, Box::new(outcome))
            }
        },
        Some(Action::Stop(_)) => Incoming::Stop(id, command),
        Some(Action::Configure(_) | Action::Plan(_)) | None => {
            let why = "this agent does not know the command; it may be too old";
            let outcome = failed(FailureReason::Unsupported, why.to_owned());
            Incoming::Refuse(id, command, Box::new(outcome))
        }
    }
}

/// Why a deploy cannot even be tried.
fn flaw(deploy: &v1::Deploy) -> Option<String> {
    if let Err(err) = check_name("bundle name", &deploy.name) {
        return Some(err.to_string());
    }
    deploy
        .digest
        .parse::<Digest>()
        .err()
        .map(|err| err.to_string())
}

/// The outcome of a command that was never tried.
pub(super) fn failed(reason: FailureReason, message: String) -> v1::Outcome {
    v1::Outcome {
        state: v1::AttemptState::Failed.into(),
        reason: reason.into(),
        message,
        ..v1::Outcome::default()
    }
}

fn unsupported(attempt: Option<v1::AttemptRef>, detail: &str) -> Incoming {
    Incoming::Unsupported(v1::Unsupported {
        attempt,
        detail: detail.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernex_proto::ids::TargetId;

    fn command(action: Option<Action>) -> v1::Command {
        v1::Command {
            attempt: Some(v1::AttemptRef {
                target_id: TargetId::generate().to_string(),
                attempt: 1,
            }),
            epoch: 7,
            action,
            ..v1::Command::default()
        }
    }

    fn deploy(name: &str, digest: &str) -> Option<Action> {
        Some(Action::Deploy(v1::Deploy {
            name: name.into(),
            digest: digest.into(),
            ..v1::Deploy::default()
        }))
    }

    fn of(command: v1::Command) -> Incoming {
        understand(Some(Message::Command(command)), 7)
    }

    #[test]
    fn a_good_deploy_is_accepted_and_a_bad_one_refused() {
        let digest = Digest::of(b"").to_string();
        assert!(matches!(
            of(command(deploy("app", &digest))),
            Incoming::Accept(..)
        ));
        for bad in [deploy("../app", &digest), deploy("app", "nonsense")] {
            assert!(matches!(of(command(bad)), Incoming::Refuse(..)));
        }
    }

    #[test]
    fn a_command_of_another_session_is_fenced() {
        let mut stale = command(Some(Action::Stop(v1::Stop::default())));
        stale.epoch = 6;
        assert_eq!(of(stale), Incoming::Fenced(6));
    }

    #[test]
    fn what_is_not_known_is_answered_and_never_closes() {
        assert!(matches!(understand(None, 7), Incoming::Unsupported(_)));
        let empty = Action::Plan(v1::Plan::default());
        assert!(matches!(of(command(Some(empty))), Incoming::Unsupported(_)));
        let Incoming::Refuse(_, _, outcome) = of(command(None)) else {
            panic!("an unknown action has to be refused");
        };
        assert_eq!(outcome.reason(), FailureReason::Unsupported);
        let nameless = v1::Command {
            epoch: 7,
            ..v1::Command::default()
        };
        assert!(matches!(of(nameless), Incoming::Unsupported(_)));
    }
}
