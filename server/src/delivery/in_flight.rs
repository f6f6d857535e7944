//! The write-behind buffer of pushes, and the attempts that a decision is under way about. Only
//! this file knows both. So no command is pushed after a decision against it, and no decision takes
//! a command for unpushed that is on its way.
//!
//! A decision holds each attempt that it has read, until it is committed or given up. It is told
//! which of them were pushed. A push is refused while its attempt is held, and afterwards if its
//! row was read before the decision ended. The dispatcher looks at the device of a refused push
//! again. Attempts are held one by one and nobody waits: a decision about a whole fleet delays only
//! what it is about.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kernex_proto::ids::{AttemptId, DeviceId};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Longest time until a push is written to its row. Until then the row says pending, and the claim
/// in the registry prevents a second push.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a decision is remembered. A command whose row was read longer ago than that
/// is read again.
const MARKS_KEPT: Duration = Duration::from_secs(60);

/// Pause between two searches for marks that can be forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// Pushes that are not in the rows yet, and decisions that are under way.
#[derive(Debug, Default)]
pub struct InFlight {
    table: Mutex<Table>,
    /// Told when a push comes while no other waits to be written.
    began: Notify,
    /// Told when a push was refused, so that its device is looked at again.
    refused: Notify,
    /// Held by whoever writes the pushes to their rows.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    /// The session each attempt was pushed in.
    handed: HashMap<AttemptId, u64>,
    /// When the oldest of them was handed over.
    since: Option<Instant>,
    /// A counter: it grows when a decision begins to hold attempts or lets them go.
    moment: u64,
    marks: HashMap<AttemptId, Mark>,
    /// The newest moment among the marks that were dropped. A row that was read before it is read
    /// again.
    dropped: u64,
    pruned: Option<Instant>,
    again: HashSet<DeviceId>,
}

/// An attempt that a decision is under way about, or was a short time ago.
#[derive(Debug)]
struct Mark {
    /// When that began or ended last.
    moment: u64,
    /// Decisions that hold the attempt now.
    holders: u32,
    /// The device whose push was refused meanwhile.
    refused: Option<DeviceId>,
    /// When the last decision let it go.
    since: Instant,
}

/// Permission to decide about attempts; only [`InFlight::begin_decision`] gives it. Dropping it
/// lets go of the attempts it holds.
#[derive(Debug)]
pub struct DecisionGuard {
    flight: Arc<InFlight>,
    marked: Mutex<HashSet<AttemptId>>,
    noted: Mutex<Vec<(AttemptId, u64)>>,
}

impl InFlight {
    /// The moment at which somebody begins to read what is due.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.table.lock().moment
    }

    /// Whether a command that begins something, whose row was read at `read`, may be pushed.
    /// Otherwise its device is looked at again.
    #[must_use]
    pub fn may_push(&self, device: DeviceId, attempt: AttemptId, read: u64) -> bool {
        let may = self.table.lock().may_push(device, attempt, read);
        if !may {
            self.refused.notify_one();
        }
        may
    }

    /// Records that a deploy is being pushed in the session `epoch`, if it may be. From here on
    /// decisions are told of it.
    #[must_use]
    pub fn record_push(&self, device: DeviceId, attempt: AttemptId, epoch: u64, read: u64) -> bool {
        let (may, began) = {
            let mut table = self.table.lock();
            let may = table.may_push(device, attempt, read);
            let began = may && table.since.is_none();
            if may {
                table.handed.insert(attempt, epoch);
                table.since.get_or_insert_with(Instant::now);
            }
            (may, began)
        };
        if !may {
            self.refused.notify_one();
        }
        if began {
            self.began.notify_one();
        }
        may
    }

    /// Removes a push that the session could not take.
    pub fn undo_push(&self, attempt: AttemptId, epoch: u64) {
        self.table.lock().mark_written(attempt, epoch);
    }

    /// A report about this attempt is written. It also shows that the attempt was pushed, so
    /// nothing is left to write.
    pub fn mark_answered(&self, attempt: AttemptId) {
        self.table.lock().handed.remove(&attempt);
    }

    /// Waits until something has to be written.
    pub async fn wait_for_unwritten(&self) {
        loop {
            let since = self.table.lock().since;
            match since {
                Some(since) => return tokio::time::sleep_until(since + WRITE_WITHIN).await,
                None => self.began.notified().await,
            }
        }
    }

    /// The pushes to write now. They stay in here until [`Self::mark_written`].
    pub(crate) fn unwritten(&self) -> Vec<(AttemptId, u64)> {
        let mut table = self.table.lock();
        // Should this write fail, the next try is due after the same wait.
        table.since = (!table.handed.is_empty()).then(Instant::now);
        table
            .handed
            .iter()
            .map(|(of, epoch)| (*of, *epoch))
            .collect()
    }

    /// These pushes are in the rows.
    pub(crate) fn mark_written(&self, pushes: &[(AttemptId, u64)]) {
        let mut table = self.table.lock();
        for (attempt, epoch) in pushes {
            table.mark_written(*attempt, *epoch);
        }
    }

    /// Waits for devices that have to be looked at again, because a push to them was refused.
    pub async fn wait_for_refused(&self) -> HashSet<DeviceId> {
        loop {
            let again = std::mem::take(&mut self.table.lock().again);
            if !again.is_empty() {
                return again;
            }
            self.refused.notified().await;
        }
    }

    /// Begins a decision. It holds nothing yet.
    #[must_use]
    pub fn begin_decision(self: &Arc<Self>) -> DecisionGuard {
        DecisionGuard {
            flight: Arc::clone(self),
            marked: Mutex::default(),
            noted: Mutex::default(),
        }
    }
}

impl Table {
    fn may_push(&mut self, device: DeviceId, attempt: AttemptId, read: u64) -> bool {
        match self.marks.get_mut(&attempt) {
            Some(mark) if mark.holders > 0 => {
                mark.refused = Some(device);
                false
            }
            Some(mark) if mark.moment > read => {
                self.again.insert(device);
                false
            }
            _ if self.dropped > read => {
                self.again.insert(device);
                false
            }
            _ => true,
        }
    }

    /// Removes a push that is written, unless the attempt was pushed again in a newer session.
    fn mark_written(&mut self, attempt: AttemptId, epoch: u64) {
        if self.handed.get(&attempt) == Some(&epoch) {
            self.handed.remove(&attempt);
        }
    }

    /// Forgets old marks. `dropped` remembers the newest of them, so that older reads are refused.
    fn prune(&mut self, now: Instant) {
        if self.pruned.is_some_and(|at| now - at < PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(now);
        let dropped = &mut self.dropped;
        self.marks.retain(|_, mark| {
            let keep = mark.holders > 0 || now - mark.since < MARKS_KEPT;
            if !keep {
                *dropped = (*dropped).max(mark.moment);
            }
            keep
        });
    }
}

impl DecisionGuard {
    /// Holds attempts whose rows have just been read, and returns those of their pushes that are
    /// not in the rows. Nothing of these attempts is pushed until the decision is over.
    #[must_use]
    pub(crate) fn hold(
        &self,
        attempts: impl IntoIterator<Item = AttemptId>,
    ) -> Vec<(AttemptId, u64)> {
        let mut marked = self.marked.lock();
        let mut table = self.flight.table.lock();
        table.moment += 1;
        let (moment, now) = (table.moment, Instant::now());
        let mut pushes = Vec::new();
        for attempt in attempts {
            if marked.insert(attempt) {
                let mark = table.marks.entry(attempt).or_insert(Mark {
                    moment,
                    holders: 0,
                    refused: None,
                    since: now,
                });
                mark.moment = moment;
                mark.holders += 1;
            }
            if let Some(epoch) = table.handed.get(&attempt) {
                pushes.push((attempt, *epoch));
            }
        }
        pushes
    }

    /// A moment at which nobody has decided yet about what this transaction makes.
    pub(crate) fn moment(&self) -> u64 {
        self.flight.moment()
    }

    /// These pushes are noted in the rows with what is decided.
    pub(crate) fn note_pushes(&self, pushes: Vec<(AttemptId, u64)>) {
        self.noted.lock().extend(pushes);
    }

    /// What was decided is committed, and with it the pushes that were noted.
    pub(crate) fn mark_committed(&self) {
        self.flight
            .mark_written(&std::mem::take(&mut *self.noted.lock()));
    }
}

impl Drop for DecisionGuard {
    fn drop(&mut self) {
        let marked = std::mem::take(&mut *self.marked.lock());
        if marked.is_empty() {
            return;
        }
        let refused = {
            let mut table = self.flight.table.lock();
            table.moment += 1;
            let (moment, now) = (table.moment, Instant::now());
            for attempt in marked {
                let Some(mark) = table.marks.get_mut(&attempt) else {
                    continue;
                };
                mark.holders -= 1;
                (mark.moment, mark.since) = (moment, now);
                let refused = (mark.holders == 0).then(|| mark.refused.take()).flatten();
                table.again.extend(refused);
            }
            table.prune(now);
            !table.again.is_empty()
        };
        if refused {
            self.flight.refused.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
