//! Keeps reports about attempts that this database does not know, for people to look at. Their
//! number is bounded: a device may know much that a restored database has lost, and may also invent
//! it.

use std::collections::{BTreeSet, HashSet};

use kernex_proto::{OUTPUT_TAIL_LIMIT, ids::DeviceId, v1};
use prost::Message as _;
use sea_orm::{
    ColumnTrait, EntityTrait, PaginatorTrait as _, QueryFilter, QueryOrder, QuerySelect,
    sea_query::OnConflict,
};
use uuid::Uuid;

use crate::store::{
    db::{
        error::Result,
        sizes::{ID_CHUNK, insert_all},
        store::Store,
        transaction::Tx,
        values::{clean, head, tail},
    },
    entity::{stored::Stored, unknown_report},
    read::attempts::key,
    write::report::{IncomingReport, MAX_MESSAGE, ReportEvent},
};

/// Reports that are kept of a device, besides the newest outcome of each bundle name.
const REPORTS_KEPT: usize = 200;

/// Reports above that number before the oldest are deleted, so that not every report has to count
/// them.
const SLACK: u64 = 50;

/// The row of a report. `None` for a report that is not worth keeping.
pub(crate) fn row(tx: &Tx, report: &IncomingReport) -> Option<unknown_report::Model> {
    let (kind, bytes) = match &report.event {
        ReportEvent::Accepted => ("accepted", Vec::new()),
        ReportEvent::Outcome(outcome) => ("outcome", bounded(outcome).encode_to_vec()),
        // Progress of an unknown attempt is worth nothing, and nobody can answer a request for more
        // time.
        ReportEvent::Progress(_) | ReportEvent::Deferred(_) => return None,
    };
    let (target_id, number) = key(report.attempt);
    Some(unknown_report::Model {
        id: tx.new_id(),
        device_id: Stored(report.device),
        target_id,
        number,
        kind: kind.to_owned(),
        report: bytes,
        at: tx.now.0,
        bundle_name: running_release(&report.event).map(|active| clean(&active.name)),
    })
}

/// The outcome, cut to the sizes that are kept.
fn bounded(outcome: &v1::Outcome) -> v1::Outcome {
    let active = outcome.active.as_deref().map(|active| {
        Box::new(v1::ActiveRelease {
            name: clean(&active.name),
            version: clean(&active.version),
            digest: clean(&active.digest),
            previous_digest: clean(&active.previous_digest),
            since: None,
        })
    });
    v1::Outcome {
        message: head(&outcome.message, MAX_MESSAGE),
        output_tail: tail(&outcome.output_tail, OUTPUT_TAIL_LIMIT),
        active,
        ..outcome.clone()
    }
}

/// The release that an outcome says runs now.
fn running_release(event: &ReportEvent) -> Option<&v1::ActiveRelease> {
    match event {
        ReportEvent::Outcome(outcome) => outcome.active.as_deref(),
        _ => None,
    }
}

impl Store {
    /// Keeps reports, and deletes the oldest ones of the same devices.
    pub(crate) async fn keep_unknown(
        &self,
        tx: &Tx,
        reports: Vec<unknown_report::Model>,
    ) -> Result<()> {
        let devices: BTreeSet<Stored<DeviceId>> =
            reports.iter().map(|report| report.device_id).collect();
        let first_stays = OnConflict::columns([
            unknown_report::Column::DeviceId,
            unknown_report::Column::TargetId,
            unknown_report::Column::Number,
            unknown_report::Column::Kind,
        ])
        .do_nothing()
        .to_owned();
        insert_all::<unknown_report::Entity>(&tx.db, reports, Some(first_stays)).await?;
        let dropped = self.figures().device_limits.with_label("unknown_reports");
        for device in devices {
            dropped.inc_by(drop_older(tx, device).await?);
        }
        Ok(())
    }
}

/// Deletes the oldest reports of a device, and returns how many.
async fn drop_older(tx: &Tx, device: Stored<DeviceId>) -> Result<u64> {
    let theirs =
        || unknown_report::Entity::find().filter(unknown_report::Column::DeviceId.eq(device));
    if theirs().count(&tx.db).await? <= REPORTS_KEPT as u64 + SLACK {
        return Ok(0);
    }
    // Ids grow with time.
    let rows: Vec<(Uuid, Option<String>)> = theirs()
        .select_only()
        .columns([
            unknown_report::Column::Id,
            unknown_report::Column::BundleName,
        ])
        .order_by_desc(unknown_report::Column::Id)
        .into_tuple()
        .all(&tx.db)
        .await?;
    let older = rows_to_drop(rows);
    for chunk in older.chunks(ID_CHUNK) {
        unknown_report::Entity::delete_many()
            .filter(unknown_report::Column::Id.is_in(chunk.iter().copied()))
            .exec(&tx.db)
            .await?;
    }
    Ok(older.len() as u64)
}

/// Which of a device's reports are deleted, given the newest first: all but the first
/// [`REPORTS_KEPT`] ones, and but the first of each bundle name.
fn rows_to_drop(rows: Vec<(Uuid, Option<String>)>) -> Vec<Uuid> {
    let mut names = HashSet::new();
    let mut going = Vec::new();
    for (place, (id, name)) in rows.into_iter().enumerate() {
        let is_newest = name.is_some_and(|name| names.len() < REPORTS_KEPT && names.insert(name));
        if place >= REPORTS_KEPT && !is_newest {
            going.push(id);
        }
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_name_and_the_newest_of_all_stay() {
        let ids: Vec<Uuid> = (0..REPORTS_KEPT as u128 + 4).map(Uuid::from_u128).collect();
        let named = |place: usize| match place {
            0 => Some("app"),
            place if place == REPORTS_KEPT => Some("app"),
            place if place == REPORTS_KEPT + 1 => Some("db"),
            place if place == REPORTS_KEPT + 2 => Some("db"),
            _ => None,
        };
        let rows = ids.iter().enumerate();
        let rows = rows.map(|(place, id)| (*id, named(place).map(str::to_owned)));
        let going = rows_to_drop(rows.collect());
        assert_eq!(
            going,
            [
                ids[REPORTS_KEPT],
                ids[REPORTS_KEPT + 2],
                ids[REPORTS_KEPT + 3]
            ]
        );
        assert!(rows_to_drop(Vec::new()).is_empty());
    }
}
