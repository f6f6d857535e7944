//! Notes what was pushed. Nobody waits for these writes, which follow the pushes.

use kernex_proto::ids::{AttemptId, DeviceId};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, sea_query::Expr};

use crate::{
    clock::Timestamp,
    crash::Act,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            values::signed,
        },
        entity::{attempt, device_configuration, run},
        read::attempts::key,
        write::{
            change_attempts::{Batch, Entry},
            defer::show_change,
        },
    },
};

impl Store {
    /// Writes all pushes that are not in the rows yet. When the store fails or the caller goes
    /// away, they stay in the buffer.
    pub async fn note_pushes(&self) -> Result<()> {
        let flight = self.in_flight();
        let _turn = flight.writing.lock().await;
        let pushes = flight.unwritten();
        self.mark_sent(&pushes).await?;
        flight.mark_written(&pushes);
        Ok(())
    }

    /// Notes deploys that were pushed, with the sessions they were pushed in.
    pub async fn mark_sent(&self, sent: &[(AttemptId, u64)]) -> Result<()> {
        self.mark(sent, |entry, epoch, now| entry.note_push(epoch, now))
            .await
    }

    /// Notes stops that were pushed, with the sessions they were pushed in and whether they end
    /// going back. A stop that was ordered since is another one and stays due.
    pub async fn mark_stops_sent(&self, sent: &[(AttemptId, bool, u64)]) -> Result<()> {
        let (with, without): (Vec<_>, Vec<_>) =
            sent.iter().partition(|(_, going_back, _)| *going_back);
        for (going_back, sent) in [(true, with), (false, without)] {
            let sent: Vec<_> = sent.iter().map(|(id, _, epoch)| (*id, *epoch)).collect();
            self.mark(&sent, |entry, epoch, _| {
                let facts = entry.facts();
                let is_this_stop = facts.stop_requested && facts.stop_going_back == going_back;
                if is_this_stop && entry.row.stop_sent_epoch < epoch {
                    entry.row.stop_sent_epoch = epoch;
                    entry.mark_dirty();
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn mark(
        &self,
        sent: &[(AttemptId, u64)],
        note: impl Fn(&mut Entry, i64, Timestamp) + Send + Sync,
    ) -> Result<()> {
        let note = &note;
        for chunk in sent.chunks(ID_CHUNK) {
            self.write_as(Act::CommitSent, |tx| async move {
                let mut batch = Batch::new(&tx);
                let targets = chunk.iter().map(|(attempt, _)| attempt.target.0);
                let named = Condition::all().add(attempt::Column::TargetId.is_in(padded(targets)));
                batch.load(named, None).await?;
                for (id, epoch) in chunk {
                    if let Some(entry) = batch.get(key(*id)) {
                        note(entry, signed(*epoch), tx.now);
                    }
                }
                batch.save().await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Notes runs that were pushed.
    pub async fn mark_runs_sent(&self, sent: &[(AttemptId, u32)]) -> Result<()> {
        self.write_as(Act::CommitRuns, |tx| async move {
            for (attempt, granted) in sent {
                let (target, number) = key(*attempt);
                run::Entity::update_many()
                    .col_expr(run::Column::DueAt, Expr::value(None::<i64>))
                    .filter(run::Column::TargetId.eq(target))
                    .filter(run::Column::Number.eq(number))
                    .filter(run::Column::Run.eq(i32::try_from(*granted).unwrap_or(i32::MAX)))
                    .exec(&tx.db)
                    .await?;
                show_change(&tx, (target, number)).await?;
            }
            Ok(())
        })
        .await
    }

    /// Notes the revisions of configurations that were pushed, with the sessions they were pushed
    /// in.
    pub async fn mark_configurations_sent(&self, sent: &[(DeviceId, u64, u64)]) -> Result<()> {
        self.write(|tx| async move {
            for (device, revision, epoch) in sent {
                device_configuration::Entity::update_many()
                    .col_expr(
                        device_configuration::Column::SentEpoch,
                        Expr::value(signed(*epoch)),
                    )
                    .filter(device_configuration::Column::DeviceId.eq(device.0))
                    .filter(device_configuration::Column::Revision.eq(signed(*revision)))
                    .exec(&tx.db)
                    .await?;
            }
            Ok(())
        })
        .await
    }
}
