//! Opens, confirms and closes many sessions in one transaction. A fleet that comes back costs one
//! transaction a batch instead of three a device.

use std::collections::{BTreeMap, HashMap};

use kernex_proto::ids::DeviceId;

use crate::{
    crash::Act,
    domain::device::away::Away,
    store::{
        db::{error::Result, store::Store, transaction::Deciding},
        write::{
            close_session::close_sessions,
            confirm_session::{confirm_sessions, mark_ailing},
            open_session::open_sessions,
            session_opening::{OpenSession, OpenedSession},
        },
    },
};

/// One change of one session.
#[derive(Debug, Clone)]
pub enum SessionChange {
    /// Open it under a new number, and reconcile the attempts that the agent lists with the rows.
    Open(Box<OpenSession>),
    /// Confirm it, because the agent has the epoch on disk. The device is online from now on.
    Confirm(DeviceId, u64),
    /// The agent cannot write the epoch to disk. The device is online, and gets no commands.
    Ail(DeviceId, u64),
    /// Close it and note why, unless a newer one has taken over.
    Close(DeviceId, u64, Away),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChanged {
    /// The session has its number.
    Opened(OpenedSession),
    /// It was confirmed or closed.
    Done,
}

impl SessionChange {
    const fn device(&self) -> DeviceId {
        match self {
            Self::Open(opening) => opening.device,
            Self::Confirm(device, _) | Self::Ail(device, _) | Self::Close(device, _, _) => *device,
        }
    }

    const fn commit_act(&self) -> Act {
        match self {
            Self::Open(_) => Act::CommitSession,
            Self::Confirm(..) | Self::Ail(..) => Act::CommitReady,
            Self::Close(..) => Act::CommitClose,
        }
    }
}

impl Store {
    /// Applies changes in one transaction, those of one device in order, and answers each after the
    /// commit. A change that is refused changes nothing, and the others go on. An error of the
    /// database undoes all of them.
    pub async fn change_sessions(
        &self,
        changes: &[SessionChange],
    ) -> Result<Vec<Result<SessionChanged>>> {
        let Some(first) = changes.first() else {
            return Ok(Vec::new());
        };
        // Most changes come alone. A mixed group has the name of its first one.
        self.decide_as(first.commit_act(), |tx| async move {
            let mut answers = BTreeMap::new();
            for round in rounds(changes) {
                commit_round(&tx, changes, &round, &mut answers).await?;
            }
            Ok(answers.into_values().collect())
        })
        .await
    }
}

/// Changes that can be applied together, as indexes into the list. A round has at most one change
/// of a device.
fn rounds(changes: &[SessionChange]) -> Vec<Vec<usize>> {
    let mut rounds = Vec::<Vec<usize>>::new();
    let mut rounds_of = HashMap::<DeviceId, usize>::new();
    for (place, change) in changes.iter().enumerate() {
        let round = rounds_of.entry(change.device()).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(place);
        *round += 1;
    }
    rounds
}

/// Applies one round, the changes of each kind together.
async fn commit_round(
    tx: &Deciding,
    changes: &[SessionChange],
    round: &[usize],
    answers: &mut BTreeMap<usize, Result<SessionChanged>>,
) -> Result<()> {
    let (mut opens, mut confirms, mut closes) = (Vec::new(), Vec::new(), Vec::new());
    let mut ailing = Vec::new();
    for &place in round {
        match &changes[place] {
            SessionChange::Open(opening) => opens.push((place, &**opening)),
            SessionChange::Confirm(device, epoch) => confirms.push((place, (*device, *epoch))),
            SessionChange::Ail(device, epoch) => ailing.push((place, (*device, *epoch))),
            SessionChange::Close(device, epoch, away) => {
                closes.push((place, (*device, *epoch, away)));
            }
        }
    }
    if !opens.is_empty() {
        let (places, opens): (Vec<_>, Vec<_>) = opens.into_iter().unzip();
        let opened = open_sessions(tx, &opens).await?.into_iter();
        let opened = opened.map(|opened| opened.map(SessionChanged::Opened));
        answers.extend(places.into_iter().zip(opened));
    }
    if !confirms.is_empty() {
        let (places, confirms): (Vec<_>, Vec<_>) = confirms.into_iter().unzip();
        let confirmed = confirm_sessions(tx, &confirms).await?.into_iter();
        let confirmed = confirmed.map(|confirmed| confirmed.map(|()| SessionChanged::Done));
        answers.extend(places.into_iter().zip(confirmed));
    }
    if !ailing.is_empty() {
        let (places, ailing): (Vec<_>, Vec<_>) = ailing.into_iter().unzip();
        let shown = mark_ailing(tx, &ailing).await?.into_iter();
        let shown = shown.map(|shown| shown.map(|()| SessionChanged::Done));
        answers.extend(places.into_iter().zip(shown));
    }
    if !closes.is_empty() {
        let (places, closes): (Vec<_>, Vec<_>) = closes.into_iter().unzip();
        close_sessions(tx, &closes).await?;
        answers.extend(
            places
                .into_iter()
                .map(|place| (place, Ok(SessionChanged::Done))),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::device::away::AwayReason;

    #[test]
    fn a_device_takes_its_steps_one_after_the_other() {
        let [one, two] = [DeviceId::generate(), DeviceId::generate()];
        let close = |device, epoch| SessionChange::Close(device, epoch, AwayReason::Closed.into());
        let changes = [
            close(one, 1),
            SessionChange::Confirm(two, 5),
            SessionChange::Confirm(one, 2),
            close(one, 2),
            close(two, 5),
        ];
        let table: [(&[SessionChange], &[&[usize]]); 3] = [
            (&[], &[]),
            (&changes[..2], &[&[0, 1]]),
            (&changes, &[&[0, 1], &[2, 4], &[3]]),
        ];
        for (changes, expected) in table {
            assert_eq!(rounds(changes), expected, "{changes:?}");
        }
    }
}
