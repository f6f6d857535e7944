//! Which held targets are opened next.

use std::collections::BTreeMap;

use kernex_proto::ids::{DeploymentId, TargetId};
use sea_orm::{
    ConnectionTrait, FromQueryResult,
    sea_query::{Alias, Condition, Expr, ExprTrait, Func, Order, Query, SelectStatement, TableRef},
};

use crate::{
    domain::{
        attempt::State,
        rollout::{Budget, Candidate, RunningByValue, choose},
    },
    store::{
        db::error::Result,
        entity::{attempt, device_label, stored::Stored, target},
        read::{
            attempts::opened_states,
            joined::{is_latest, read_rows},
        },
    },
};

/// Most candidates that one transaction looks at where labels decide. Devices whose budget is used
/// up are left out before, so at least one of them can be opened. The next round takes the rest.
const MOST_CANDIDATES: u64 = 20_000;

/// Held targets of the phases up to `through`, in their order, as many as the limits allow.
pub(crate) async fn choose_held<C: ConnectionTrait>(
    db: &C,
    deployment: Stored<DeploymentId>,
    through: u32,
    at_most: u32,
    budgets: &[Budget],
) -> Result<Vec<Stored<TargetId>>> {
    let mut in_flight = Vec::with_capacity(budgets.len());
    for budget in budgets {
        in_flight.push(in_flight_by_label(db, deployment, budget).await?);
    }
    let query = candidates(deployment, through, at_most, budgets, &in_flight);
    let mut found = Vec::new();
    for row in db.query_all(&query).await? {
        let values = (0..budgets.len())
            .map(|index| row.try_get::<Option<String>>("", &format!("value{index}")))
            .collect::<Result<_, _>>()?;
        found.push(Candidate {
            target: row.try_get::<Stored<TargetId>>("", "id")?.0,
            values,
        });
    }
    let chosen = choose(found, budgets, in_flight, at_most);
    Ok(chosen.into_iter().map(Stored).collect())
}

/// Latest attempts of a deployment's targets that may still change.
fn unresolved_attempts(deployment: Stored<DeploymentId>) -> SelectStatement {
    Query::select()
        .from_as(attempt::Entity, "a")
        .inner_join(TableRef::from(target::Entity).alias("t"), is_latest())
        .and_where(Expr::col(("a", attempt::Column::DeploymentId)).eq(deployment))
        .and_where(Expr::col(("a", attempt::Column::Unresolved)))
        .to_owned()
}

/// Joins the value of a label of each device.
fn with_label(query: &mut SelectStatement, alias: &str, label: &str) {
    query.left_join(
        TableRef::from(device_label::Entity).alias(Alias::new(alias)),
        Expr::col((Alias::new(alias), device_label::Column::DeviceId))
            .equals(("a", attempt::Column::DeviceId))
            .and(Expr::col((Alias::new(alias), device_label::Column::Key)).eq(label)),
    );
}

/// Targets in flight by the value of a budget's label.
async fn in_flight_by_label<C: ConnectionTrait>(
    db: &C,
    deployment: Stored<DeploymentId>,
    budget: &Budget,
) -> Result<RunningByValue> {
    #[derive(FromQueryResult)]
    struct Row {
        value: Option<String>,
        n: i64,
    }
    let mut query = unresolved_attempts(deployment);
    with_label(&mut query, "l", &budget.label);
    query
        .column(("l", device_label::Column::Value))
        .expr_as(Func::count(Expr::col(("a", attempt::Column::Number))), "n")
        .and_where(Expr::col(("a", attempt::Column::State)).is_in(opened_states()))
        .group_by_col(("l", device_label::Column::Value));
    let mut found = BTreeMap::new();
    for row in read_rows::<Row, _>(db, &query).await? {
        found.insert(row.value, u32::try_from(row.n).unwrap_or(u32::MAX));
    }
    Ok(found)
}

fn candidates(
    deployment: Stored<DeploymentId>,
    through: u32,
    at_most: u32,
    budgets: &[Budget],
    in_flight: &[RunningByValue],
) -> SelectStatement {
    let mut query = unresolved_attempts(deployment);
    query
        .column(("t", target::Column::Id))
        .and_where(Expr::col(("a", attempt::Column::State)).eq(State::Held.as_str()))
        .and_where(Expr::col(("t", target::Column::Phase)).lte(through as i32))
        .order_by(("t", target::Column::Phase), Order::Asc)
        .order_by(("t", target::Column::Rank), Order::Asc)
        .order_by(("t", target::Column::Id), Order::Asc);
    for (index, (budget, flying)) in budgets.iter().zip(in_flight).enumerate() {
        let alias = format!("l{index}");
        with_label(&mut query, &alias, &budget.label);
        let value = || Expr::col((Alias::new(&alias), device_label::Column::Value));
        query.expr_as(value(), Alias::new(format!("value{index}")));
        let full = flying.iter().filter(|(_, there)| **there >= budget.max);
        let (named, unnamed): (Vec<_>, Vec<_>) = full
            .map(|(value, _)| value.clone())
            .partition(Option::is_some);
        if !unnamed.is_empty() {
            query.and_where(value().is_not_null());
        }
        if !named.is_empty() {
            let free = Condition::any()
                .add(value().is_null())
                .add(value().is_not_in(named.into_iter().flatten()));
            query.cond_where(free);
        }
    }
    let limit = if budgets.is_empty() {
        u64::from(at_most)
    } else {
        MOST_CANDIDATES
    };
    query.limit(limit);
    query
}
