//! Statements that join targets `t` with their attempts `a`, and the rows that they give.

use sea_orm::{
    ConnectionTrait, FromQueryResult,
    sea_query::{Expr, ExprTrait, SelectStatement},
};

use crate::store::{
    db::error::Result,
    entity::{attempt, target},
};

/// The attempt is one of its target.
pub(crate) fn is_of_target() -> Expr {
    Expr::col(("t", target::Column::Id)).equals(("a", attempt::Column::TargetId))
}

/// The attempt is the latest of its target.
pub(crate) fn is_latest() -> Expr {
    is_of_target()
        .and(Expr::col(("t", target::Column::LatestAttempt)).equals(("a", attempt::Column::Number)))
}

/// The rows of a statement.
pub(crate) async fn read_rows<R: FromQueryResult, C: ConnectionTrait>(
    db: &C,
    query: &SelectStatement,
) -> Result<Vec<R>> {
    let rows = db.query_all(query).await?;
    let rows = rows.iter().map(|row| R::from_query_result(row, ""));
    Ok(rows.collect::<Result<_, _>>()?)
}
