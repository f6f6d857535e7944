//! Keeps a mark for each journal: all outcomes numbered up to it are recorded. The transaction that
//! records outcomes raises it. An agent sends outcomes above the mark again. After a restore those
//! are the ones that the rows have lost; otherwise there are none.
//!
//! An outcome names the one before it in its journal. So the mark only passes an outcome when
//! nothing is missing before it, in whatever order outcomes arrive. Outcomes that were refused,
//! late, repeated or about an unknown attempt count, because nothing is left to do about them.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, Query, TableRef, UpdateStatement, ValueTuple},
};

use crate::store::{
    db::{
        error::Result,
        raw::value,
        sizes::padded,
        transaction::Tx,
        values::{signed, unsigned},
    },
    entity::{journal, stored::Stored},
    write::report::{IncomingReport, ReportPlace},
};

type Key = (Stored<DeviceId>, Stored<JournalId>);

/// Outcomes of one journal with none missing between them: the number before the first, and the
/// number of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    after: u64,
    through: u64,
}

/// The marks of some journals, while the outcomes of a batch are read.
#[derive(Debug, Default)]
pub(crate) struct Marks(BTreeMap<Key, u64>);

impl Marks {
    /// The marks of the journals that these outcomes are from.
    pub(crate) async fn of(tx: &Tx, reports: &[IncomingReport]) -> Result<Self> {
        let places = reports
            .iter()
            .filter_map(|report| Some((Stored(report.device), report.place?)));
        let (devices, journals): (BTreeSet<Stored<DeviceId>>, BTreeSet<Stored<JournalId>>) = places
            .map(|(device, place)| (device, Stored(place.journal)))
            .unzip();
        let rows = journal::Entity::find()
            .filter(journal::Column::DeviceId.is_in(padded(devices)))
            .filter(journal::Column::JournalId.is_in(padded(journals)))
            .all(&tx.db)
            .await?;
        let marks = rows.into_iter().map(|row| {
            let recorded = row.recorded_seq.map_or(0, unsigned);
            ((row.device_id, row.journal_id), recorded)
        });
        Ok(Self(marks.collect()))
    }

    /// Passes an outcome. True when its number is above all before it, in the rows and in this
    /// batch. Then what it says about the device is news.
    pub(crate) fn pass(&mut self, device: DeviceId, place: ReportPlace) -> bool {
        match self.0.entry((Stored(device), Stored(place.journal))) {
            Entry::Occupied(mark) if place.seq <= *mark.get() => false,
            Entry::Occupied(mut mark) => {
                mark.insert(place.seq);
                true
            }
            Entry::Vacant(mark) => {
                mark.insert(place.seq);
                true
            }
        }
    }
}

/// Raises the marks over the outcomes among these reports. That is one statement for all journals,
/// unless an outcome is missing in one.
pub(crate) async fn raise_marks(tx: &Tx, reports: &[IncomingReport]) -> Result<()> {
    for round in rounds(reports) {
        tx.db.execute(&statement(&round)).await?;
    }
    Ok(())
}

/// Which marks to raise, in rounds: of a journal with several stretches the lowest comes first.
fn rounds(reports: &[IncomingReport]) -> Vec<Vec<(Key, Stretch)>> {
    let mut places = BTreeMap::<Key, Vec<Stretch>>::new();
    for report in reports {
        let Some(place) = report.place.filter(|place| place.after < place.seq) else {
            continue;
        };
        let of = (Stored(report.device), Stored(place.journal));
        places.entry(of).or_default().push(Stretch {
            after: place.after,
            through: place.seq,
        });
    }
    let mut rounds = Vec::<Vec<(Key, Stretch)>>::new();
    for (of, places) in places {
        for (round, stretch) in join_stretches(places).into_iter().enumerate() {
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            rounds[round].push((of, stretch));
        }
    }
    rounds
}

/// Joins stretches that overlap or follow one another.
fn join_stretches(mut places: Vec<Stretch>) -> Vec<Stretch> {
    places.sort_by_key(|place| (place.after, place.through));
    let mut joined = Vec::<Stretch>::with_capacity(1);
    for place in places {
        match joined.last_mut() {
            Some(last) if place.after <= last.through => {
                last.through = Ord::max(last.through, place.through);
            }
            _ => joined.push(place),
        }
    }
    joined
}

fn statement(round: &[(Key, Stretch)]) -> UpdateStatement {
    use journal::Column as C;
    let rows = round.iter().map(|((device, journal), stretch)| {
        let values = [
            (*device).into(),
            (*journal).into(),
            signed(stretch.after).into(),
            signed(stretch.through).into(),
        ];
        ValueTuple::Many(values.into())
    });
    let told = |number: u8| value("told", number);
    let column = |column: C| Expr::col((journal::Entity, column));
    Query::update()
        .table(journal::Entity)
        .value(C::RecordedSeq, told(4))
        .from(TableRef::ValuesList(padded(rows), "told".into()))
        .and_where(column(C::DeviceId).eq(told(1)))
        .and_where(column(C::JournalId).eq(told(2)))
        .and_where(column(C::RecordedSeq).gte(told(3)))
        .and_where(column(C::RecordedSeq).lt(told(4)))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_follow_one_another_are_one_stretch_whatever_their_order() {
        let stretch = |(after, through)| Stretch { after, through };
        type Places<'a> = &'a [(u64, u64)];
        let table: [(Places<'_>, Places<'_>); 6] = [
            (&[], &[]),
            (&[(0, 3), (3, 7), (7, 8)], &[(0, 8)]),
            (&[(7, 8), (0, 3), (3, 7)], &[(0, 8)]),
            (&[(0, 3), (0, 3)], &[(0, 3)]),
            (&[(0, 3), (7, 8)], &[(0, 3), (7, 8)]),
            (&[(2, 9), (3, 4), (4, 5)], &[(2, 9)]),
        ];
        for (places, expected) in table {
            let places: Vec<_> = places.iter().copied().map(stretch).collect();
            let expected: Vec<_> = expected.iter().copied().map(stretch).collect();
            assert_eq!(join_stretches(places.clone()), expected, "{places:?}");
        }
    }
}
