//! Group commit of reports: one transaction applies many of them. Their acknowledgements follow.

use std::collections::BTreeSet;

use kernex_proto::{
    OUTPUT_TAIL_LIMIT,
    ids::{DeviceId, TargetId, check_name},
    v1,
};
use sea_orm::{ColumnTrait, Condition};

use crate::{
    clock::Timestamp,
    crash::Act,
    domain::attempt::{Effect, Ending, Fact, OutputMark, Sent, Step, disposition, fitting},
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            values::{head, signed, tail},
        },
        entity::{attempt, stored::Stored},
        read::{attempts::key, output::marks_text},
        write::{
            change_attempts::{Batch, Entry},
            defer::defer,
            keep_unknown,
            learn_releases::Releases,
            raise_marks::{self, Marks},
            report::{IncomingReport, MAX_MESSAGE, ReportEvent},
        },
    },
};

impl Store {
    /// Applies reports in order. Returns the disposition of each after the commit. `None` for a
    /// report of a session whose key is revoked by now: nothing of it is written.
    pub async fn apply_reports(
        &self,
        reports: &[IncomingReport],
    ) -> Result<Vec<Option<v1::Disposition>>> {
        self.write_as(Act::CommitReports, |tx| async move {
            let targets: BTreeSet<Stored<TargetId>> = reports
                .iter()
                .map(|report| Stored(report.attempt.target))
                .collect();
            let targets: Vec<Stored<TargetId>> = targets.into_iter().collect();
            let mut batch = Batch::new(&tx);
            for chunk in targets.chunks(ID_CHUNK) {
                let named = Condition::all()
                    .add(attempt::Column::TargetId.is_in(padded(chunk.iter().copied())));
                batch.load(named, None).await?;
            }
            let silenced = self
                .silenced(&tx, reports.iter().map(|report| Stored(report.device)))
                .await?;
            let is_silenced = |report: &IncomingReport| {
                let newest = silenced.get(&Stored(report.device));
                newest.is_some_and(|newest| report.epoch <= *newest)
            };
            let mut marks = Marks::default();
            if reports
                .iter()
                .any(|report| report.place.is_some() && !batch.is_open(key(report.attempt)))
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
                        unknown.extend(keep_unknown::row(&tx, report));
                        if is_news {
                            learn_unknown(report, tx.now, &mut releases);
                        }
                        v1::Disposition::Unknown
                    }
                    Some(entry) => {
                        let disposition = apply_one(entry, report, is_news, tx.now, &mut releases);
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
            defer(&tx, &deferred).await?;
            raise_marks::raise_marks(&tx, reports).await?;
            Ok(dispositions)
        })
        .await
    }
}

/// The devices that have an outcome among these reports.
fn reporting(reports: &[IncomingReport]) -> BTreeSet<Stored<DeviceId>> {
    reports
        .iter()
        .filter(|report| matches!(report.event, ReportEvent::Outcome(_)))
        .map(|report| Stored(report.device))
        .collect()
}

/// Learns from the outcome of an unknown attempt, which a restored database may have lost. What it
/// says about the running release is true all the same.
fn learn_unknown(report: &IncomingReport, now: Timestamp, releases: &mut Releases) {
    if let ReportEvent::Outcome(outcome) = &report.event
        && let Some(active) = &outcome.active
        && check_name("bundle name", &active.name).is_ok()
        && releases.has_room(Stored(report.device), &active.name)
    {
        releases.learn(Stored(report.device), &active.name, Some(active), now);
    }
}

fn apply_one(
    entry: &mut Entry,
    report: &IncomingReport,
    is_news: bool,
    now: Timestamp,
    releases: &mut Releases,
) -> v1::Disposition {
    if entry.row.device_id.0 != report.device {
        tracing::warn!(device = %report.device, command = %report.attempt, "a device reported about a target that is not its own");
        return v1::Disposition::Refused;
    }
    let fact = match &report.event {
        // An attempt that waits for its next run was accepted, and nothing of it has begun.
        ReportEvent::Accepted | ReportEvent::Deferred(_) => Fact::Accepted,
        ReportEvent::Progress(progress) => {
            let Ok(step) = Step::try_from(progress.step()) else {
                // A newer agent may name a step that is unknown here. Only the step is lost: the
                // state is known without it.
                return v1::Disposition::Duplicate;
            };
            Fact::Progress {
                step,
                bytes: (progress.bytes_done, progress.bytes_total),
                stopped: progress.stopped,
            }
        }
        ReportEvent::Outcome(outcome) => match Ending::try_from(outcome) {
            Ok(ending) => Fact::Outcome(ending),
            Err(why) => {
                tracing::warn!(device = %report.device, command = %report.attempt, why, "an outcome was refused");
                return v1::Disposition::Refused;
            }
        },
    };
    let verdict = entry.apply(fact, now);
    if matches!(verdict, Effect::Applied(_)) && !Sent(entry.row.sent_epoch).is_known() {
        // The device answers the attempt, so it was pushed, whether that was noted or not.
        entry.row.sent_epoch = Sent::SOMETIME.0;
    }
    if let ReportEvent::Outcome(outcome) = &report.event
        && !matches!(verdict, Effect::Unchanged)
    {
        write_outcome(&mut entry.row, outcome, matches!(verdict, Effect::Late(_)));
        let row = &mut entry.row;
        let before = releases.running(row.device_id, &row.bundle_name);
        releases.learn(
            row.device_id,
            &row.bundle_name,
            outcome.active.as_deref(),
            now,
        );
        let after = releases.running(row.device_id, &row.bundle_name);
        // No outcome has said what ran before, so the device's own word counts.
        row.previous_digest = Some(if before.digest.is_empty() {
            after.previous_digest
        } else {
            before.digest
        });
        (row.active_version, row.active_digest) = (Some(after.version), Some(after.digest));
    }
    if let ReportEvent::Outcome(outcome) = &report.event
        && matches!(verdict, Effect::Unchanged)
        && is_news
        && report.place.is_some()
    {
        // Nothing of the attempt is new. But an agent that sends its outcomes again does so in
        // order, and an older one may have been unknown here and have named another release.
        let (device, name) = (entry.row.device_id, &entry.row.bundle_name);
        releases.learn(device, name, outcome.active.as_deref(), now);
    }
    let asks = matches!(report.event, ReportEvent::Deferred(_));
    disposition(&verdict, entry.facts(), asks).into()
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
        let marks = outcome.output_marks.iter().map(OutputMark::from);
        row.output_marks = if output_tail == outcome.output_tail {
            marks_text(&fitting(&output_tail, marks.collect()))
        } else {
            // The marks belong to the text as it came, and the text was changed.
            String::new()
        };
        row.output_tail = output_tail;
    }
}
