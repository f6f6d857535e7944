//! What agents say, group-committed: many reports, one transaction, then their acks.

use std::collections::BTreeSet;

use kernex_proto::{
    OUTPUT_TAIL_LIMIT,
    ids::{AttemptId, DeviceId, JournalId, check_name},
    v1,
};
use sea_orm::{ColumnTrait, Condition};
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::{Batch, Entry, signed},
    dispatch::key,
    entity::attempt,
    marks::{self, Marks},
    running::Releases,
    runs,
    transaction::{ID_CHUNK, padded},
    unknown,
};
use crate::{
    clock::Timestamp,
    crash::Act,
    domain::attempt::{Ending, Fact, Sent, Step, Verdict, disposition},
};

/// One report of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingReport {
    /// Whose session it came in.
    pub device: DeviceId,
    /// Number of that session.
    pub epoch: u64,
    /// Which attempt.
    pub attempt: AttemptId,
    /// What happened.
    pub event: ReportEvent,
    /// Where it stands among the outcomes of its journal; none for all else, and when its agent does not say.
    pub place: Option<Place>,
}

/// Where an outcome stands in the journal of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The journal.
    pub journal: JournalId,
    /// Number of the outcome before it; 0 when there is none.
    pub after: u64,
    /// Its number.
    pub seq: u64,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportEvent {
    /// It is in the journal.
    Accepted,
    /// It goes on.
    Progress(v1::Progress),
    /// It ended.
    Outcome(v1::Outcome),
    /// Its `hooks.pre` asks to be asked again later.
    Deferred(v1::Deferred),
}

/// Longest message, in bytes.
pub(super) const MAX_MESSAGE: usize = 4096;

impl Store {
    /// Applies reports in order and says what became of each, once committed. None for those that came in with a key that is
    /// revoked by now: nothing of what they say is written.
    pub async fn apply_reports(
        &self,
        reports: &[IncomingReport],
    ) -> Result<Vec<Option<v1::Disposition>>> {
        self.write_as(Act::CommitReports, |tx| async move {
            let targets: BTreeSet<Uuid> = reports
                .iter()
                .map(|report| report.attempt.target.0)
                .collect();
            let targets: Vec<Uuid> = targets.into_iter().collect();
            let mut batch = Batch::new(&tx);
            for chunk in targets.chunks(ID_CHUNK) {
                let named = Condition::all()
                    .add(attempt::Column::TargetId.is_in(padded(chunk.iter().copied())));
                batch.load(named, None).await?;
            }
            let silenced = self
                .silenced(&tx, reports.iter().map(|report| report.device.0))
                .await?;
            let is_silenced = |report: &IncomingReport| {
                let newest = silenced.get(&report.device.0);
                newest.is_some_and(|newest| report.epoch <= *newest)
            };
            let mut marks = Marks::default();
            if reports
                .iter()
                .any(|report| report.place.is_some() && batch.get(key(report.attempt)).is_none())
            {
                marks = Marks::of(&tx, reports).await?;
            }
            let mut releases = Releases::of(&tx, reporting(reports)).await?;
            let mut unknown = Vec::new();
            let mut deferred = Vec::new();
            let mut dispositions = Vec::with_capacity(reports.len());
            for report in reports {
                if is_silenced(report) {
                    tracing::warn!(device = %report.device, session = report.epoch, command = %report.attempt, "a report of a revoked key was refused");
                    dispositions.push(None);
                    continue;
                }
                let is_news = report
                    .place
                    .is_none_or(|place| marks.pass(report.device, place));
                let disposition = match batch.get(key(report.attempt)) {
                    None => {
                        unknown.extend(unknown::row(report, tx.now.0));
                        if is_news {
                            learn_unknown(report, tx.now, &mut releases);
                        }
                        v1::Disposition::Unknown
                    }
                    Some(entry) => {
                        let disposition = apply_one(entry, report, tx.now, &mut releases);
                        if let ReportEvent::Deferred(asked) = &report.event
                            && disposition == v1::Disposition::Applied
                        {
                            deferred.push((report.attempt, asked.clone()));
                        }
                        disposition
                    }
                };
                dispositions.push(Some(disposition));
            }
            batch.save().await?;
            self.keep_unknown(&tx, unknown).await?;
            releases.save(&tx).await?;
            runs::defer(&tx, &deferred).await?;
            marks::raise(&tx, reports).await?;
            Ok(dispositions)
        })
        .await
    }
}

/// The devices whose outcomes are among these reports.
fn reporting(reports: &[IncomingReport]) -> BTreeSet<Uuid> {
    reports
        .iter()
        .filter(|report| matches!(report.event, ReportEvent::Outcome(_)))
        .map(|report| report.device.0)
        .collect()
}

/// What an outcome says about what runs is true although nobody here knows its attempt: a restored database has forgotten it.
fn learn_unknown(report: &IncomingReport, now: Timestamp, releases: &mut Releases) {
    if let ReportEvent::Outcome(outcome) = &report.event
        && let Some(active) = &outcome.active
        && check_name("bundle name", &active.name).is_ok()
        && releases.has_room(report.device.0, &active.name)
    {
        releases.learn(report.device.0, &active.name, Some(active), now);
    }
}

fn apply_one(
    entry: &mut Entry,
    report: &IncomingReport,
    now: Timestamp,
    releases: &mut Releases,
) -> v1::Disposition {
    if entry.row.device_id != report.device.0 {
        tracing::warn!(device = %report.device, attempt = %report.attempt, "a device reported about a target that is not its own");
        return v1::Disposition::Refused;
    }
    let fact = match &report.event {
        // What waits for its next run has been accepted, and nothing of it has begun.
        ReportEvent::Accepted | ReportEvent::Deferred(_) => Fact::Accepted,
        ReportEvent::Progress(progress) => {
            let Some(step) = Step::from_wire(progress.step()) else {
                // A step a newer agent has; where the attempt stands is known without it.
                return v1::Disposition::Duplicate;
            };
            Fact::Progress {
                step,
                bytes: (progress.bytes_done, progress.bytes_total),
                stopped: progress.stopped,
            }
        }
        ReportEvent::Outcome(outcome) => match Ending::from_wire(outcome) {
            Ok(ending) => Fact::Outcome(ending),
            Err(why) => {
                tracing::warn!(device = %report.device, attempt = %report.attempt, why, "an outcome was refused");
                return v1::Disposition::Refused;
            }
        },
    };
    let verdict = entry.apply(fact, now);
    if matches!(verdict, Verdict::Applied(_)) && !Sent(entry.row.sent_epoch).is_known() {
        // It got there, whatever becomes of the note about that.
        entry.row.sent_epoch = Sent::SOMETIME.0;
    }
    if let ReportEvent::Outcome(outcome) = &report.event
        && !matches!(verdict, Verdict::Unchanged)
    {
        write_outcome(&mut entry.row, outcome, matches!(verdict, Verdict::Late(_)));
        let row = &mut entry.row;
        let before = releases.running(row.device_id, &row.bundle_name);
        releases.learn(
            row.device_id,
            &row.bundle_name,
            outcome.active.as_ref(),
            now,
        );
        let after = releases.running(row.device_id, &row.bundle_name);
        // What no outcome told about, the device may know.
        row.previous_digest = Some(if before.digest.is_empty() {
            after.previous_digest
        } else {
            before.digest
        });
        (row.active_version, row.active_digest) = (Some(after.version), Some(after.digest));
    }
    let asks = matches!(report.event, ReportEvent::Deferred(_));
    disposition(&verdict, entry.facts(), asks)
}

fn write_outcome(row: &mut attempt::Model, outcome: &v1::Outcome, late: bool) {
    let message = head(&outcome.message, MAX_MESSAGE);
    let output_tail = tail(&outcome.output_tail, OUTPUT_TAIL_LIMIT);
    row.duration_ms = Some(signed(outcome.duration_ms));
    if late {
        row.late_message = Some(message);
        row.late_exit_code = outcome.exit_code;
        row.late_output_tail = Some(output_tail);
    } else {
        row.message = message;
        row.exit_code = outcome.exit_code;
        row.output_tail = output_tail;
    }
}

/// The beginning of a text, within a number of bytes and without NUL, which PostgreSQL refuses.
pub(super) fn head(text: &str, limit: usize) -> String {
    let text = text.replace('\0', "\u{fffd}");
    text[..text.floor_char_boundary(limit)].to_owned()
}

/// The end of a text, likewise.
pub(super) fn tail(text: &str, limit: usize) -> String {
    let text = text.replace('\0', "\u{fffd}");
    text[text.ceil_char_boundary(text.len().saturating_sub(limit))..].to_owned()
}
