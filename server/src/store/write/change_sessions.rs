//! Steps of many sessions' lives, committed together: a fleet that comes back costs a transaction a
//! batch, not three a device.

use std::collections::{BTreeMap, HashMap};

use kernex_proto::ids::DeviceId;

use crate::{
    crash::Act,
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

/// One change to one session.
#[derive(Debug, Clone)]
pub enum SessionChange {
    /// Number and open it, and settle the agent's complete list of attempts.
    Open(Box<OpenSession>),
    /// The agent has the epoch on disk; from now on it is online.
    Confirm(DeviceId, u64),
    /// The agent cannot write the epoch down; it is online and takes no commands.
    Ail(DeviceId, u64),
    /// It ended, unless a newer one took over.
    Close(DeviceId, u64),
}

/// What a change came to.
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
            Self::Confirm(device, _) | Self::Ail(device, _) | Self::Close(device, _) => *device,
        }
    }

    const fn act(&self) -> Act {
        match self {
            Self::Open(_) => Act::CommitSession,
            Self::Confirm(..) | Self::Ail(..) => Act::CommitReady,
            Self::Close(..) => Act::CommitClose,
        }
    }
}

impl Store {
    /// Makes changes in one transaction, those of a device in order, and answers each once they are
    /// committed. A change that is refused changes nothing and holds nobody up; an error of the
    /// database undoes them all.
    pub async fn change_sessions(
        &self,
        changes: &[SessionChange],
    ) -> Result<Vec<Result<SessionChanged>>> {
        let Some(first) = changes.first() else {
            return Ok(Vec::new());
        };
        // Most come alone; a mixed group goes by the name of its first.
        self.decide_as(first.act(), |tx| async move {
            let mut answers = BTreeMap::new();
            for round in rounds(changes) {
                commit_round(&tx, changes, &round, &mut answers).await?;
            }
            Ok(answers.into_values().collect())
        })
        .await
    }
}

/// Changes that can be made at once, as places in the list: in each round a device has one at most.
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

/// Makes the changes of one round, each kind together.
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
            SessionChange::Close(device, epoch) => closes.push((place, (*device, *epoch))),
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

    #[test]
    fn a_device_takes_its_steps_one_after_the_other() {
        let [one, two] = [DeviceId::generate(), DeviceId::generate()];
        let changes = [
            SessionChange::Close(one, 1),
            SessionChange::Confirm(two, 5),
            SessionChange::Confirm(one, 2),
            SessionChange::Close(one, 2),
            SessionChange::Close(two, 5),
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
