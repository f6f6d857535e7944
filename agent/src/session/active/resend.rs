//! Sends outcomes again that the server has lost: its database was restored from an older backup.
//!
//! Example: the journal has the outcomes 3, 5 and 8, all acknowledged. Welcome says that the server
//! has them up to 3. The agent sends 5 and 8 again, in this order, and new outcomes after them.

use std::collections::HashMap;

use kernex_proto::v1::device_session_request::Message;

use super::{Active, SessionError};

/// Outcomes sent at once. The next ones follow when all of these are acknowledged, so that sending
/// a year of outcomes needs no more memory than sending a day.
const AT_ONCE: usize = 16;

/// How far sending again has come.
#[derive(Debug)]
pub(super) struct Resend {
    /// Outcomes up to this number were sent.
    through: u64,
    /// Outcomes that were sent and not acknowledged yet, and whether they had been acknowledged in
    /// an earlier session.
    waiting: HashMap<u64, bool>,
}

impl Active<'_> {
    /// Begins to send the outcomes above `recorded` again, if any of them was acknowledged before.
    /// Without such a one they wait for their acknowledgement anyway.
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

    /// Sends the next outcomes; ends when there are none.
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
            // Reports of attempts that ended meanwhile.
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

    /// Whether an outcome has to wait behind those that are sent again: to the server, the last
    /// outcome says what the device runs.
    pub(super) fn waits_for_resend(&self, seq: u64) -> bool {
        self.resend
            .as_ref()
            .is_some_and(|resend| seq > resend.through)
    }

    /// Notes an acknowledgement. Returns whether nothing else is to be done about it, because the
    /// outcome is a tombstone already.
    pub(super) async fn acknowledge_resent(&mut self, seq: u64) -> Result<bool, SessionError> {
        let Some(resend) = &mut self.resend else {
            return Ok(false);
        };
        let buried = resend.waiting.remove(&seq);
        Ok(buried.unwrap_or(false))
    }

    /// Continues once everything that was sent is acknowledged.
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
