//! Inserts attempts: one row each, or many that only differ in their targets.

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ConnectionTrait, DbErr, ExprTrait, IntoActiveModel, Iterable,
    sea_query::{Expr, Query},
};

use crate::{
    clock::Timestamp,
    domain::attempt::Attempt,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            transaction::Tx,
        },
        entity::{attempt, stored::Stored, target},
        write::change_attempts::write_facts,
    },
};

pub(crate) struct NewAttempt<'a> {
    pub(crate) target: TargetId,
    pub(crate) number: i32,
    pub(crate) deployment: DeploymentId,
    pub(crate) device: DeviceId,
    pub(crate) bundle_name: &'a str,
    pub(crate) generation: i64,
    pub(crate) facts: Attempt,
}

impl NewAttempt<'_> {
    pub(crate) fn into_row(self, now: Timestamp) -> attempt::Model {
        let mut row = attempt::Model {
            target_id: Stored(self.target),
            number: self.number,
            deployment_id: Stored(self.deployment),
            device_id: Stored(self.device),
            bundle_name: self.bundle_name.to_owned(),
            generation: self.generation,
            revision: 1,
            state: String::new(),
            unresolved: true,
            reason: None,
            message: String::new(),
            step: None,
            bytes_done: 0,
            bytes_total: 0,
            exit_code: None,
            output_tail: String::new(),
            output_marks: String::new(),
            duration_ms: None,
            active_version: None,
            active_digest: None,
            previous_digest: None,
            stop_requested: false,
            stop_going_back: false,
            stopped: false,
            sent_epoch: 0,
            stop_sent_epoch: 0,
            delivery_deadline: self.facts.delivery_deadline.0,
            execution_us: i64::try_from(self.facts.execution.as_micros()).unwrap_or(i64::MAX),
            execution_deadline: None,
            created_at: now.0,
            updated_at: now.0,
            accepted_at: None,
            closed_at: None,
            answered: false,
            late_state: None,
            late_reason: None,
            late_message: None,
            late_exit_code: None,
            late_output_tail: None,
            late_at: None,
        };
        write_facts(&mut row, &self.facts, now);
        row
    }
}

/// Inserts attempts that only differ in their targets, which are there already. The database copies
/// the rest from `alike` and from the targets.
pub(crate) async fn insert_alike(
    tx: &Tx,
    alike: attempt::Model,
    targets: &[Stored<TargetId>],
) -> Result<()> {
    use attempt::Column as C;
    let alike = alike.into_active_model();
    for chunk in targets.chunks(ID_CHUNK) {
        let mut rows = Query::select();
        for column in C::iter() {
            match column {
                C::TargetId => rows.column(("t", target::Column::Id)),
                C::DeviceId | C::Generation => rows.column(("t", column)),
                _ => match alike.get(column) {
                    ActiveValue::Set(value) | ActiveValue::Unchanged(value) => rows.expr(value),
                    ActiveValue::NotSet => continue,
                },
            };
        }
        rows.from_as(target::Entity, "t")
            .and_where(Expr::col(("t", target::Column::Id)).is_in(padded(chunk.iter().copied())));
        let insert = Query::insert()
            .into_table(attempt::Entity)
            .columns(C::iter())
            .select_from(rows)
            .map_err(|error| DbErr::Custom(error.to_string()))?
            .to_owned();
        tx.db.execute(&insert).await?;
    }
    Ok(())
}
