//! Statements about many rows, in few sizes: a connection keeps what it has prepared by its text, and one statement for every
//! possible number of rows would neither fit nor be met again.

use sea_orm::{
    ActiveModelTrait, DatabaseTransaction, EntityTrait, Insert, IntoActiveModel, Iterable,
    sea_query::OnConflict,
};

use crate::store::Result;

/// Most ids in one `IN (...)`.
pub(crate) const ID_CHUNK: usize = 4_096;

/// Most bound values in one statement; both databases allow a little more.
const BIND_LIMIT: usize = 30_000;

/// Most rows in one `INSERT`; more of them cost no less each.
const ROW_CHUNK: usize = 256;

/// Inserts many rows in few statements; says how many rows were written.
pub(crate) async fn insert_all<E>(
    db: &DatabaseTransaction,
    rows: Vec<E::Model>,
    on_conflict: Option<OnConflict>,
) -> Result<u64>
where
    E: EntityTrait,
    E::Model: IntoActiveModel<E::ActiveModel>,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    let most = (BIND_LIMIT / E::Column::iter().count()).clamp(1, ROW_CHUNK);
    let mut written = 0;
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let size = piece(rows.len(), most);
        let chunk: Vec<_> = rows.by_ref().take(size).collect();
        let mut insert = Insert::<E::ActiveModel>::many(chunk);
        if let Some(on_conflict) = &on_conflict {
            insert = insert.on_conflict(on_conflict.clone());
        }
        written += insert.exec_without_returning(db).await?;
    }
    Ok(written)
}

/// The largest power of two that is neither more than `left` nor more than `most`; both are at least 1.
fn piece(left: usize, most: usize) -> usize {
    1 << left.min(most).ilog2()
}

/// Values for an `IN (...)`, the last one repeated up to a power of two.
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
                pieces.push(piece(left, most));
                left -= piece(left, most);
            }
            pieces
        };
        assert_eq!(pieces(9, 256), [8, 1]);
        assert_eq!(pieces(600, 256), [256, 256, 64, 16, 8]);
        assert_eq!(pieces(3, 1), [1, 1, 1]);
    }
}
