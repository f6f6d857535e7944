//! What was handed to a session and is not in the rows yet, and the attempts somebody is about to
//! decide about: the one place that knows both, so that a command is never pushed past a decision,
//! and nothing is taken for never pushed that is on its way.
//!
//! A decision marks the attempts it has read, which gives it their pushes, and holds them until it
//! is committed or given up. A push is refused while its attempt is held, and afterwards when its
//! row was read before that; whoever is refused is looked at again. Each attempt is held for itself
//! and nobody waits: a decision about a whole fleet holds up what it is about and nothing else.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use kernex_proto::ids::{AttemptId, DeviceId};
use tokio::{sync::Notify, time::Instant};

/// Longest time a push is written behind. Whoever reads meanwhile finds the attempt pending, and
/// the claim in the registry keeps it from being pushed once more.
const BEHIND: Duration = Duration::from_secs(2);

/// How long it is kept which attempts were decided about. A command whose row was read longer ago
/// than that is read again.
const KEPT: Duration = Duration::from_secs(60);

/// Longest time what was handed over waits for an answer of a database that hangs, before the marks
/// are looked through again.
const PRUNED: Duration = Duration::from_secs(10);

/// Pushes that the rows do not know of, and decisions that are under way.
#[derive(Debug, Default)]
pub struct InFlight {
    table: Mutex<Table>,
    /// Something was handed over and nothing waited to be written.
    began: Notify,
    /// Somebody has to be looked at again.
    refused: Notify,
    /// Whoever writes what was handed over.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    /// Sessions that attempts were pushed in.
    handed: HashMap<AttemptId, u64>,
    /// Since when the first of them waits to be written.
    since: Option<Instant>,
    /// Grows with each decision that begins or ends about some attempt.
    moment: u64,
    marks: HashMap<AttemptId, Mark>,
    /// The newest moment of which marks were dropped.
    dropped: u64,
    pruned: Option<Instant>,
    again: HashSet<DeviceId>,
}

/// That an attempt is decided about, or was a short time ago.
#[derive(Debug)]
struct Mark {
    /// When that began or ended last.
    moment: u64,
    /// Decisions that hold it.
    holders: u32,
    /// Whose push was refused meanwhile.
    refused: Option<DeviceId>,
    /// When it was let go.
    since: Instant,
}

/// Leave to decide about attempts, given out here and nowhere else. What it has marked is let go
/// when it is dropped.
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
        self.lock().moment
    }

    /// Whether a command that begins something, whose row was read at `read`, may be pushed.
    /// Otherwise its device is looked at again.
    #[must_use]
    pub fn may_push(&self, device: DeviceId, attempt: AttemptId, read: u64) -> bool {
        let may = self.lock().may_push(device, attempt, read);
        if !may {
            self.refused.notify_one();
        }
        may
    }

    /// Takes note that a deploy is being pushed in the session `epoch`, if it may be: from here on
    /// decisions know of it.
    #[must_use]
    pub fn record_push(&self, device: DeviceId, attempt: AttemptId, epoch: u64, read: u64) -> bool {
        let (may, began) = {
            let mut table = self.lock();
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

    /// The session could not take it after all.
    pub fn undo_push(&self, attempt: AttemptId, epoch: u64) {
        self.lock().mark_written(attempt, epoch);
    }

    /// What the device said about this attempt is written, which also says that it was pushed.
    pub fn mark_answered(&self, attempt: AttemptId) {
        self.lock().handed.remove(&attempt);
    }

    /// Waits until something has to be written.
    pub async fn wait_for_unwritten(&self) {
        loop {
            let since = self.lock().since;
            match since {
                Some(since) => return tokio::time::sleep_until(since + BEHIND).await,
                None => self.began.notified().await,
            }
        }
    }

    /// What is to be written now; it stays known here until it is.
    pub(crate) fn unwritten(&self) -> Vec<(AttemptId, u64)> {
        let mut table = self.lock();
        // Of the next try, should this one fail.
        table.since = (!table.handed.is_empty()).then(Instant::now);
        table
            .handed
            .iter()
            .map(|(of, epoch)| (*of, *epoch))
            .collect()
    }

    /// These pushes are in the rows.
    pub(crate) fn mark_written(&self, pushes: &[(AttemptId, u64)]) {
        let mut table = self.lock();
        for (attempt, epoch) in pushes {
            table.mark_written(*attempt, *epoch);
        }
    }

    /// Waits for devices that have to be looked at again, because a push to them was refused.
    pub async fn wait_for_refused(&self) -> HashSet<DeviceId> {
        loop {
            let again = std::mem::take(&mut self.lock().again);
            if !again.is_empty() {
                return again;
            }
            self.refused.notified().await;
        }
    }

    /// Leave to decide.
    #[must_use]
    pub fn begin_decision(self: &Arc<Self>) -> DecisionGuard {
        DecisionGuard {
            flight: Arc::clone(self),
            marked: Mutex::default(),
            noted: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
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

    /// It may have been pushed in a newer session meanwhile.
    fn mark_written(&mut self, attempt: AttemptId, epoch: u64) {
        if self.handed.get(&attempt) == Some(&epoch) {
            self.handed.remove(&attempt);
        }
    }

    /// Drops what nobody can ask for any more.
    fn prune(&mut self, now: Instant) {
        if self.pruned.is_some_and(|at| now - at < PRUNED) {
            return;
        }
        self.pruned = Some(now);
        let dropped = &mut self.dropped;
        self.marks.retain(|_, mark| {
            let keep = mark.holders > 0 || now - mark.since < KEPT;
            if !keep {
                *dropped = (*dropped).max(mark.moment);
            }
            keep
        });
    }
}

impl DecisionGuard {
    /// Holds attempts whose rows have just been read, and gives the pushes of them that those rows
    /// do not know of. From now on nothing of them is pushed until this is over.
    #[must_use]
    pub(crate) fn hold(
        &self,
        attempts: impl IntoIterator<Item = AttemptId>,
    ) -> Vec<(AttemptId, u64)> {
        let mut marked = self.marked.lock();
        let mut table = self.flight.lock();
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
            let mut table = self.flight.lock();
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
mod tests {
    use kernex_proto::ids::TargetId;

    use super::*;

    fn attempt() -> AttemptId {
        AttemptId {
            target: TargetId::generate(),
            number: 1,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_push_says_when_they_are_written_and_answers_leave_nothing_to_write() {
        let flight = InFlight::default();
        let never = tokio::time::timeout(BEHIND * 100, flight.wait_for_unwritten()).await;
        assert!(never.is_err(), "there is nothing to write");
        let (device, first, second) = (DeviceId::generate(), attempt(), attempt());
        let begun = Instant::now();
        assert!(flight.record_push(device, first, 1, 0));
        tokio::time::advance(BEHIND / 2).await;
        assert!(flight.record_push(device, second, 1, 0));
        flight.wait_for_unwritten().await;
        assert_eq!(begun.elapsed(), BEHIND);
        flight.mark_answered(first);
        assert_eq!(flight.unwritten(), [(second, 1)]);
        assert!(
            flight.record_push(device, second, 2, 0),
            "in a newer session"
        );
        flight.mark_written(&[(second, 1)]);
        assert_eq!(flight.unwritten(), [(second, 2)], "which is another push");
        flight.undo_push(second, 2);
        assert_eq!(flight.unwritten(), []);
    }

    #[tokio::test]
    async fn a_push_and_a_decision_about_it_exclude_each_other_and_nothing_else() {
        let flight = Arc::new(InFlight::default());
        let (device, one, other) = (DeviceId::generate(), attempt(), attempt());
        let before = flight.moment();
        // Pushed first: whoever decides is told.
        assert!(flight.record_push(device, one, 7, before));
        let decision = flight.begin_decision();
        assert_eq!(decision.hold([one]), [(one, 7)]);
        assert_eq!(
            decision.hold([one]),
            [(one, 7)],
            "also when the transaction runs again"
        );
        decision.note_pushes(vec![(one, 7)]);
        decision.mark_committed();
        assert_eq!(flight.unwritten(), [], "it is in the rows now");
        // Held: only this one waits, and it is looked at again once it is let go.
        assert!(!flight.record_push(device, one, 7, flight.moment()));
        assert!(flight.record_push(device, other, 7, before));
        let second = flight.begin_decision();
        let _ = second.hold([one]);
        drop(decision);
        assert!(
            !flight.may_push(device, one, flight.moment()),
            "somebody else holds it"
        );
        drop(second);
        assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
        // Let go: what was read before that is not pushed, what is read now is.
        assert!(!flight.record_push(device, one, 7, before));
        assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
        assert!(flight.record_push(device, one, 7, flight.moment()));
    }

    #[tokio::test(start_paused = true)]
    async fn marks_do_not_pile_up_and_what_was_read_before_them_is_read_again() {
        let flight = Arc::new(InFlight::default());
        let device = DeviceId::generate();
        let old = flight.moment();
        let first = flight.begin_decision();
        let _ = first.hold([attempt(), attempt()]);
        drop(first);
        tokio::time::advance(KEPT + PRUNED).await;
        let second = flight.begin_decision();
        let _ = second.hold([attempt()]);
        drop(second);
        assert_eq!(flight.lock().marks.len(), 1);
        assert!(
            !flight.may_push(device, attempt(), old),
            "nobody knows any more"
        );
        assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
        assert!(flight.may_push(device, attempt(), flight.moment()));
    }
}
