//! Statements about many rows, in few sizes. A connection caches prepared statements by their text.
//! One statement for each number of rows would neither fit into that cache nor be used again.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, Insert, InsertMany,
    IntoActiveModel, Iterable, QueryTrait, sea_query::OnConflict,
};

use crate::store::db::error::Result;

/// Most ids in one `IN (...)`.
pub(crate) const ID_CHUNK: usize = 4_096;

/// Most bound values in one statement. Both databases allow a little more.
const BIND_LIMIT: usize = 30_000;

/// Most rows in one `INSERT`. Larger ones cost no less for each row.
const ROW_CHUNK: usize = 256;

/// Inserts many rows in few statements.
pub(crate) async fn insert_all<E>(
    db: &DatabaseTransaction,
    rows: Vec<E::Model>,
    on_conflict: Option<OnConflict>,
) -> Result<()>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<E::ActiveModel>,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    for insert in inserts::<E>(rows, on_conflict) {
        db.execute(insert.as_query()).await?;
    }
    Ok(())
}

/// The same. Returns how many rows were inserted.
pub(crate) async fn insert_counted<E>(
    db: &DatabaseTransaction,
    rows: Vec<E::Model>,
    on_conflict: Option<OnConflict>,
) -> Result<u64>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<E::ActiveModel>,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    let mut written = 0;
    for insert in inserts::<E>(rows, on_conflict) {
        written += db.execute(insert.as_query()).await?.rows_affected();
    }
    Ok(written)
}

fn inserts<E>(
    rows: Vec<E::Model>,
    on_conflict: Option<OnConflict>,
) -> impl Iterator<Item = InsertMany<E::ActiveModel>>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<E::ActiveModel>,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    let most = (BIND_LIMIT / E::Column::iter().count()).clamp(1, ROW_CHUNK);
    let mut rows = rows.into_iter();
    std::iter::from_fn(move || {
        if rows.len() == 0 {
            return None;
        }
        let size = power_of_two(rows.len(), most);
        let insert = Insert::<E::ActiveModel>::many(rows.by_ref().take(size));
        Some(match &on_conflict {
            Some(on_conflict) => insert.on_conflict(on_conflict.clone()),
            None => insert,
        })
    })
}

/// The largest power of two that is at most `left` and at most `most`. Both are at least 1.
fn power_of_two(left: usize, most: usize) -> usize {
    1 << left.min(most).ilog2()
}

/// Values for an `IN (...)`. The last one is repeated until their number is a power of two.
pub(crate) fn padded<T: Clone>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_come_in_few_sizes() {
        let padded = |count: usize| padded(0..count);
        assert_eq!(padded(0), [0; 0]);
        assert_eq!(padded(1), [0]);
        assert_eq!(padded(5), [0, 1, 2, 3, 4, 4, 4, 4]);
        let pieces = |mut left: usize, most| {
            let mut pieces = Vec::new();
            while left > 0 {
                pieces.push(power_of_two(left, most));
                left -= power_of_two(left, most);
            }
            pieces
        };
        assert_eq!(pieces(9, 256), [8, 1]);
        assert_eq!(pieces(600, 256), [256, 256, 64, 16, 8]);
        assert_eq!(pieces(3, 1), [1, 1, 1]);
    }
}
