//! Steps of many sessions' lives, committed together: a fleet that comes back costs a transaction a batch, not three a
//! device.

use kernex_proto::ids::DeviceId;

use super::{
    Result, Store, StoreError,
    sessions::{OpenSession, OpenedSession, close, confirm, numbered, open},
    transaction::Tx,
};
use crate::crash::Act;

/// One step of one session.
#[derive(Debug, Clone)]
pub enum Step {
    /// Number and open it, and settle the agent's complete list of attempts.
    Open(Box<OpenSession>),
    /// The agent has the epoch on disk; from now on it is online.
    Confirm(DeviceId, u64),
    /// It ended, unless a newer one took over.
    Close(DeviceId, u64),
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The session has its number.
    Opened(OpenedSession),
    /// It was confirmed or closed.
    Done,
}

impl Step {
    const fn act(&self) -> Act {
        match self {
            Self::Open(_) => Act::CommitSession,
            Self::Confirm(..) => Act::CommitReady,
            Self::Close(..) => Act::CommitClose,
        }
    }
}

impl Store {
    /// Takes steps in order, in one transaction, and answers each once they are committed. A step that is refused changes
    /// nothing and holds nobody up; an error of the database undoes them all.
    pub async fn take_steps(&self, steps: &[Step]) -> Result<Vec<Result<Taken>>> {
        let Some(first) = steps.first() else {
            return Ok(Vec::new());
        };
        // Most come alone; a mixed group goes by the name of its first.
        self.write_as(first.act(), |tx| async move {
            let mut answers = Vec::with_capacity(steps.len());
            for step in steps {
                match take(&tx, step).await {
                    Err(error @ (StoreError::Db(_) | StoreError::Unavailable(_))) => {
                        return Err(error);
                    }
                    answer => answers.push(answer),
                }
            }
            Ok(answers)
        })
        .await
    }
}

async fn take(tx: &Tx, step: &Step) -> Result<Taken> {
    match step {
        Step::Open(opening) => Box::pin(open(tx, opening)).await.map(Taken::Opened),
        Step::Confirm(device, epoch) => {
            confirm(tx, *device, *epoch).await?;
            Ok(Taken::Done)
        }
        Step::Close(device, epoch) => {
            close(tx, numbered(*device, *epoch)).await?;
            Ok(Taken::Done)
        }
    }
}
