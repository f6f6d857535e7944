//! Telling the server again what its database has lost: one that was restored from an older backup
//! says up to where it has the outcomes of this journal, and gets those above, acknowledged ones
//! too, in the order they were made.

use std::collections::HashMap;

use kernex_proto::v1::device_session_request::Message;

use super::{Active, SessionError};

/// Outcomes that are under way at once: the next ones go out when all of these are acknowledged, so
/// that a device which tells a year again needs no more memory than one that tells a day.
const AT_ONCE: usize = 16;

/// How far the telling has come.
#[derive(Debug)]
pub(super) struct Resend {
    /// Outcomes up to this are told.
    through: u64,
    /// Those that are under way, and whether they had been acknowledged before.
    waiting: HashMap<u64, bool>,
}

impl Active<'_> {
    /// Begins to tell again what is above `recorded`, when that is not what waits for its
    /// acknowledgement anyway.
    pub(super) async fn begin_resend(&mut self, recorded: Option<u64>) -> Result<(), SessionError> {
        let Some(recorded) = recorded else {
            return Ok(());
        };
        let lost = self
            .journal
            .call(move |journal| journal.is_acknowledged_above(recorded))
            .await?;
        if lost {
            tracing::warn!(
                recorded,
                "the server has lost outcomes, as one does that was restored from a backup; they are told again"
            );
            self.resend = Some(Resend {
                through: recorded,
                waiting: HashMap::new(),
            });
            self.send_next_lost().await?;
        }
        Ok(())
    }

    /// Sends the next outcomes; ends the telling when there are none.
    async fn send_next_lost(&mut self) -> Result<(), SessionError> {
        let Some(resend) = &mut self.resend else {
            return Ok(());
        };
        let through = resend.through;
        let next = self
            .journal
            .call(move |journal| journal.outcomes_above(through, AT_ONCE))
            .await?;
        let Some(last) = next.last() else {
            tracing::info!("every outcome the server had lost is told again");
            self.resend = None;
            // What ended in this moment.
            return self.send_reports().await;
        };
        resend.through = last.report.seq;
        resend.waiting = next
            .iter()
            .map(|past| (past.report.seq, past.buried))
            .collect();
        for past in next {
            self.sent.insert(past.report.seq);
            self.send(Message::Report(past.report)).await?;
        }
        Ok(())
    }

    /// Whether an outcome has to wait for its turn behind those that are told again: the server
    /// takes what it hears last for what runs.
    pub(super) fn waits_for_resend(&self, seq: u64) -> bool {
        self.resend
            .as_ref()
            .is_some_and(|resend| seq > resend.through)
    }

    /// One of those that are under way may be acknowledged. Says whether that is all there is to do
    /// about it.
    pub(super) async fn acknowledge_resent(&mut self, seq: u64) -> Result<bool, SessionError> {
        let Some(resend) = &mut self.resend else {
            return Ok(false);
        };
        let buried = resend.waiting.remove(&seq);
        Ok(buried.unwrap_or(false))
    }

    /// Goes on once all that is under way has been acknowledged.
    pub(super) async fn continue_resend(&mut self) -> Result<(), SessionError> {
        if self
            .resend
            .as_ref()
            .is_some_and(|resend| resend.waiting.is_empty())
        {
            Box::pin(self.send_next_lost()).await?;
        }
        Ok(())
    }
}
