//! The life of an open session as one pure table: what it waited for, and what it does then.

use std::time::Duration;

use kernex_proto::{
    ids::AttemptId,
    v1::{
        self, DeviceSessionRequest, device_session_request::Message as Up,
        device_session_response::Message as Down, report::Event,
    },
};
use tonic::Status;

use super::handshake::undecodable;
use crate::{
    delivery::registry::EndReason,
    domain::device::away::AwayReason,
    edge::connections::PING_LIMIT,
    error::{malformed, silent},
    store::ReportEvent,
};

/// What a session waited for.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a session has one at a time and matches on it at once"
)]
pub(super) enum Wake {
    Ended(EndReason),
    Message(DeviceSessionRequest),
    Broken(Status),
    Closed,
    Silent,
}

impl From<Option<Result<DeviceSessionRequest, Status>>> for Wake {
    fn from(message: Option<Result<DeviceSessionRequest, Status>>) -> Self {
        match message {
            Some(Ok(message)) => Self::Message(message),
            Some(Err(status)) => Self::Broken(status),
            None => Self::Closed,
        }
    }
}

/// What a session does about it.
#[derive(Debug)]
pub(super) enum Decision {
    Ignore(&'static str),
    Reply(Vec<Down>),
    Heartbeat {
        seq: u64,
        /// In a box: the future of an open session has room for the largest decision.
        row: Box<v1::Heartbeat>,
    },
    Progress(AttemptId, v1::Progress),
    /// The answer to a plan: what a deploy would meet.
    Planned(v1::Planned),
    /// The answer to a configuration.
    Configured(v1::Configured),
    Report(Report),
    Finish(Option<Status>),
    Drain(Duration),
}

impl Decision {
    /// Whether it counts among the messages that a device may send in a second. Heartbeats do not,
    /// because only the newest is kept.
    pub(super) const fn is_counted(&self) -> bool {
        !matches!(
            self,
            Self::Heartbeat { .. } | Self::Finish(_) | Self::Drain(_)
        )
    }
}

/// What an agent says about an attempt.
#[derive(Debug)]
pub(super) struct Report {
    /// Number by which the report is acknowledged; 0 when no acknowledgement is expected.
    pub(super) seq: u64,
    /// Number of the outcome before this one in its journal, if this is an outcome. `None` when the
    /// agent does not say.
    pub(super) previous_outcome: Option<u64>,
    pub(super) attempt: AttemptId,
    pub(super) event: ReportEvent,
    pub(super) traceparent: String,
}

/// Why the device is away, if its session ends now.
pub(super) fn leaving(wake: &Wake) -> AwayReason {
    match wake {
        Wake::Ended(why) => match why {
            EndReason::Replaced => AwayReason::Replaced,
            EndReason::SlowConsumer => AwayReason::SlowConsumer,
            EndReason::Revoked(_) => AwayReason::Revoked,
            EndReason::Unrecorded => AwayReason::Unrecorded,
            EndReason::Drain { .. } => AwayReason::Drained,
        },
        Wake::Broken(status) if undecodable(status) => AwayReason::Malformed,
        Wake::Broken(_) => AwayReason::Cut,
        Wake::Closed => AwayReason::Closed,
        Wake::Silent => AwayReason::Silent,
        // A message only ends a session when it makes no sense.
        Wake::Message(_) => AwayReason::Malformed,
    }
}

/// Why the device is away, once it is known for how long nothing had come over its connection.
///
/// A connection breaks at the moment that its peer or the network says so. This server ends one by
/// itself when a ping is not answered, and that is after a silence. A third heartbeat need not be
/// overdue by then.
pub(super) fn told_apart(reason: AwayReason, quiet: Duration) -> AwayReason {
    match reason {
        // Half of it, because tasks of a busy server are late.
        AwayReason::Cut if quiet >= PING_LIMIT / 2 => AwayReason::Silent,
        reason => reason,
    }
}

/// Decides for an agent that cannot write its state folder and has confirmed nothing. It may only
/// send heartbeats.
pub(super) fn decide_ailing(wake: Wake) -> Decision {
    let is_more = matches!(&wake, Wake::Message(request)
        if !matches!(request.message, Some(Up::Heartbeat(_)) | None));
    if is_more {
        return Decision::Finish(Some(malformed(
            "a session that was not confirmed is for heartbeats only",
        )));
    }
    decide(wake)
}

pub(super) fn decide(wake: Wake) -> Decision {
    match wake {
        Wake::Ended(EndReason::Drain { reconnect_after }) => Decision::Drain(reconnect_after),
        Wake::Ended(why) => Decision::Finish(Some(why.into())),
        Wake::Closed => Decision::Finish(None),
        Wake::Silent => Decision::Finish(Some(silent())),
        Wake::Broken(status) if undecodable(&status) => {
            Decision::Finish(Some(malformed("a message cannot be decoded")))
        }
        Wake::Broken(_) => Decision::Finish(None),
        Wake::Message(request) => match request.message {
            None => Decision::Reply(vec![unsupported(None, "message")]),
            Some(Up::Hello(_) | Up::Ready(_)) => {
                Decision::Finish(Some(malformed("the session is open already")))
            }
            Some(Up::Heartbeat(row)) => heartbeat(row),
            Some(Up::Report(report)) => self::report(report),
            Some(Up::Unsupported(answer)) => not_known(answer),
            Some(Up::Planned(answer)) => Decision::Planned(answer),
            Some(Up::Configured(answer)) => Decision::Configured(answer),
        },
    }
}

pub(super) fn heartbeat(row: v1::Heartbeat) -> Decision {
    match &row.vital_signs {
        Some(signs) if !(0.0..=100.0).contains(&signs.cpu_percent) => {
            Decision::Finish(Some(malformed("Heartbeat: cpu_percent has to be 0 to 100")))
        }
        None => Decision::Finish(Some(malformed("Heartbeat: vital_signs is missing"))),
        Some(_) => Decision::Heartbeat {
            seq: row.seq,
            row: Box::new(row),
        },
    }
}

fn report(report: v1::Report) -> Decision {
    let bad = |why: &str| Decision::Finish(Some(malformed(&format!("Report: {why}"))));
    let Some(reference) = report.attempt else {
        return bad("attempt is missing");
    };
    let Ok(attempt) = AttemptId::try_from(&reference) else {
        return bad("attempt is not valid");
    };
    let event = match report.event {
        // A kind of report from a later version. It is answered, and acknowledged if the agent
        // waits for that.
        None => {
            let mut replies = vec![unsupported(Some(reference), "report")];
            if report.seq != 0 {
                replies.push(Down::Ack(v1::Ack {
                    seq: report.seq,
                    disposition: v1::Disposition::Refused.into(),
                }));
            }
            return Decision::Reply(replies);
        }
        // An operator waits for this, so it is a report of its own and not the latest progress.
        // Nothing acknowledges it.
        Some(Event::Progress(progress)) if progress.stopped => {
            return Decision::Report(Report {
                seq: 0,
                previous_outcome: None,
                attempt,
                event: ReportEvent::Progress(progress),
                traceparent: report.traceparent,
            });
        }
        Some(Event::Progress(progress)) => return Decision::Progress(attempt, progress),
        Some(Event::Accepted(_)) => ReportEvent::Accepted,
        Some(Event::Outcome(outcome)) => ReportEvent::Outcome(outcome),
        Some(Event::Deferred(deferred)) => ReportEvent::Deferred(deferred),
    };
    if report.seq == 0 {
        return bad("seq is missing");
    }
    Decision::Report(Report {
        seq: report.seq,
        previous_outcome: report.previous_outcome_seq,
        attempt,
        event,
        traceparent: report.traceparent,
    })
}

/// An agent that does not know a command will never run it, so its attempt ends here. The agent
/// expects no acknowledgement.
fn not_known(answer: v1::Unsupported) -> Decision {
    let attempt = answer.attempt.as_ref().map(AttemptId::try_from);
    let Some(Ok(attempt)) = attempt else {
        return Decision::Ignore("the agent does not know a message");
    };
    Decision::Report(Report {
        seq: 0,
        previous_outcome: None,
        attempt,
        event: ReportEvent::Outcome(v1::Outcome {
            state: v1::AttemptState::Failed.into(),
            reason: v1::FailureReason::Unsupported.into(),
            message: format!("the agent does not know this: {}", answer.detail),
            ..v1::Outcome::default()
        }),
        traceparent: String::new(),
    })
}

fn unsupported(attempt: Option<v1::AttemptRef>, detail: &str) -> Down {
    Down::Unsupported(v1::Unsupported {
        attempt,
        detail: detail.into(),
    })
}

#[cfg(test)]
mod tests;
