//! Reports of an open session: what was not acknowledged is sent, and what the server answers is
//! written down.

use std::{collections::HashSet, time::Duration};

use kernex_proto::{
    ids::AttemptId,
    v1::{self, Disposition, device_session_request::Message, report::Event},
    words,
};
use tokio::time::{Instant, sleep_until};

use super::{Active, SessionError};
use crate::{
    clock,
    journal::{AckResult, Journal, StopResult},
    session::incoming::{Incoming, failed, understand},
};

impl Active<'_> {
    pub(super) async fn acknowledged(
        &mut self,
        seq: u64,
        disposition: Disposition,
    ) -> Result<(), SessionError> {
        if self.acknowledge_resent(seq).await? {
            self.sent.remove(&seq);
            return self.continue_resend().await;
        }
        let now = clock::wall().seconds;
        let acked = self
            .journal
            .call(move |journal| journal.acknowledge(seq, now))
            .await?;
        tracing::debug!(
            seq,
            disposition = words::disposition(disposition),
            report = acked.as_str(),
            "acknowledged"
        );
        self.sent.remove(&seq);
        self.continue_resend().await?;
        match (acked, disposition) {
            // This server does not know deferred attempts: waiting for a grant would never end.
            (AckResult::Deferred(id), Disposition::Refused | Disposition::Unknown) => {
                let why =
                    "hooks.pre asked to be asked again later, which this server does not know";
                let outcome = failed(v1::FailureReason::Refused, why.to_owned());
                self.journal
                    .call(move |journal| journal.finish(id, outcome, None, String::new()))
                    .await?;
                self.send_reports().await
            }
            (AckResult::Accepted(id) | AckResult::Deferred(id), disposition)
                if is_unwanted(disposition) =>
            {
                self.give_up(id, disposition).await
            }
            _ => Ok(()),
        }
    }

    /// Reports each attempt that waits for another run, acknowledged or not: a grant may have been
    /// lost.
    pub(super) async fn send_deferred(&mut self) -> Result<(), SessionError> {
        for report in self.journal.call(Journal::deferred).await? {
            if self.sent.insert(report.seq) {
                self.send(Message::Report(report)).await?;
            }
        }
        Ok(())
    }

    /// The server does not want an accepted attempt: it ends, unless its scripts have begun. Those
    /// finish, and their outcome is reported.
    async fn give_up(
        &mut self,
        id: AttemptId,
        disposition: Disposition,
    ) -> Result<(), SessionError> {
        let stopped = self
            .journal
            .call(move |journal| match journal.get(id)? {
                Some(record) if record.state() == v1::AttemptState::Accepted => {
                    journal.stop(id, &v1::Command::default())
                }
                _ => Ok(StopResult::Over),
            })
            .await?;
        if stopped == StopResult::Cancelled {
            tracing::warn!(command = %id, disposition = words::disposition(disposition), "given up");
            self.shared.stop(id, false);
            self.send_reports().await?;
        }
        Ok(())
    }

    /// Sends the reports that are not acknowledged and were not sent in this session.
    pub(super) async fn send_reports(&mut self) -> Result<(), SessionError> {
        for report in self.journal.call(Journal::unacknowledged).await? {
            let waits = is_outcome(&report) && self.waits_for_resend(report.seq);
            if !waits && self.sent.insert(report.seq) {
                self.send(Message::Report(report)).await?;
            }
        }
        Ok(())
    }

    /// Sends all reports of one attempt, acknowledged or not: the server asked for it again. Older
    /// outcomes that wait to be sent go first, so that outcomes are recorded in their order.
    pub(super) async fn resend_reports_of(&mut self, id: AttemptId) -> Result<(), SessionError> {
        let known = self
            .journal
            .call(move |journal| journal.reports_of(id))
            .await?;
        let unsent: HashSet<u64> = known.iter().map(|report| report.seq).collect();
        let unsent = &unsent - &self.sent;
        if known.iter().any(is_outcome) {
            self.send_reports().await?;
        }
        for report in known {
            let is_sent_now = unsent.contains(&report.seq) && self.sent.contains(&report.seq);
            if is_sent_now || is_outcome(&report) && self.waits_for_resend(report.seq) {
                continue;
            }
            self.sent.insert(report.seq);
            self.send(Message::Report(report)).await?;
        }
        Ok(())
    }

    /// Reads only acknowledgements, until all have come or the time is over.
    pub(super) async fn await_acks(&mut self, limit: Duration) -> Result<(), SessionError> {
        let end = Instant::now() + limit;
        while !self.journal.call(Journal::unacknowledged).await?.is_empty() {
            let message = tokio::select! {
                message = self.streams.down.message() => message,
                () = sleep_until(end) => return Ok(()),
            };
            let Ok(Some(message)) = message else {
                return Ok(());
            };
            if let Incoming::Ack(seq, disposition) = understand(message.message, self.epoch) {
                self.acknowledged(seq, disposition).await?;
            }
        }
        Ok(())
    }
}

fn is_outcome(report: &v1::Report) -> bool {
    matches!(report.event, Some(Event::Outcome(_)))
}

/// Whether this answer to an acceptance means that the server does not want the attempt.
fn is_unwanted(disposition: Disposition) -> bool {
    match disposition {
        Disposition::Late | Disposition::Unknown | Disposition::Refused => true,
        Disposition::Applied | Disposition::Duplicate | Disposition::Unspecified => false,
    }
}
