//! Confirms sessions: the agent has the number on disk, or says that it cannot write it there.

use std::collections::BTreeMap;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait, sea_query::Expr,
};

use crate::store::{
    db::{
        error::{Result, not_found},
        sizes::padded,
        transaction::Tx,
    },
    entity::{device, session, stored::Stored},
    read::sessions::{DeviceSession, session_epoch, still_open},
    write::copies,
};

/// Notes that agents have the numbers of their sessions on disk. Answers each in its place. Each
/// session is of another device. A session that is refused changes nothing.
pub(crate) async fn confirm_sessions(
    tx: &Tx,
    numbered: &[(DeviceId, u64)],
) -> Result<Vec<Result<()>>> {
    let sessions = mark_online(tx, numbered).await?;
    let mut sound = Vec::with_capacity(sessions.len());
    for (device, session) in &sessions {
        if session.conflicted {
            copies::confirm_copy(tx, device.0, session.journal_id.0, session.epoch).await?;
        } else {
            sound.push(*device);
        }
    }
    // A session has the newest number of its device, so a number that was confirmed before is
    // smaller.
    let confirmed = device::Entity::update_many()
        .col_expr(device::Column::ConfirmedEpoch, session_epoch())
        .filter(device::Column::Id.is_in(padded(sound)));
    tx.db.execute(confirmed.as_query()).await?;
    Ok(answers(numbered, &sessions))
}

/// Notes that devices are online whose agents cannot write the numbers of their sessions to disk.
/// Answers each in its place. Such a number is not confirmed, because the journal may come back
/// with an older one.
pub(crate) async fn mark_ailing(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<Vec<Result<()>>> {
    let sessions = mark_online(tx, numbered).await?;
    Ok(answers(numbered, &sessions))
}

/// Has the devices online from now on.
async fn mark_online(
    tx: &Tx,
    numbered: &[(DeviceId, u64)],
) -> Result<BTreeMap<Stored<DeviceId>, DeviceSession>> {
    let sessions = still_open(tx, numbered).await?;
    let shown = session::Entity::update_many()
        .col_expr(session::Column::ConfirmedAt, Expr::value(tx.now.0))
        .filter(session::Column::DeviceId.is_in(padded(sessions.keys().copied())));
    tx.db.execute(shown.as_query()).await?;
    for (device, session) in &sessions {
        tx.device_event("device.online", device.0, &session.name);
    }
    Ok(sessions)
}

fn answers(
    numbered: &[(DeviceId, u64)],
    sessions: &BTreeMap<Stored<DeviceId>, DeviceSession>,
) -> Vec<Result<()>> {
    let answer = |(device, epoch): &(DeviceId, u64)| {
        let is_open = sessions.contains_key(&Stored(*device));
        let missing = || not_found("session", format_args!("{device}#{epoch}"));
        is_open.then_some(()).ok_or_else(missing)
    };
    numbered.iter().map(answer).collect()
}
