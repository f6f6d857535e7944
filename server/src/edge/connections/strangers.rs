//! Keeps the connections on which nothing has authenticated, and closes them in time. `crowd.rs`
//! decides about them. What it decides is done here, without a lock held.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    crowd::{Crowd, Room, StrangerAction, StrangerLimits, Why},
    guesses::{Credential, Guesses},
    handle::{ConnectionHandle, Presence, Watch},
    refusals::{LogLine, Refusals},
    source::Source,
};
use crate::metrics::{Metrics, set};

/// Time between two checks for strangers whose time is over.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// Time between two checks for failures that can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Most bytes of the detail of a refusal in the log.
const DETAIL_BYTES: usize = 200;

pub(crate) struct Strangers {
    crowd: Mutex<Crowd<ConnectionHandle>>,
    guesses: Guesses,
    refusals: Mutex<Refusals>,
    /// Told when a stranger comes that has a time limit.
    changed: Notify,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").finish_non_exhaustive()
    }
}

impl Strangers {
    pub(crate) fn new(limits: StrangerLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            crowd: Mutex::new(Crowd::new(limits, rand::random())),
            guesses: Guesses::default(),
            refusals: Mutex::default(),
            changed: Notify::new(),
            metrics,
        })
    }

    pub(crate) fn arrive(self: &Arc<Self>) -> Presence {
        let handle = ConnectionHandle::default();
        let (number, first) = {
            let mut crowd = self.crowd();
            let number = crowd.arrive(handle.clone(), Instant::now());
            set(&self.metrics.edge.strangers, crowd.len());
            (number, crowd.len() == 1)
        };
        handle.set_stranger(Arc::<Self>::clone(self), number);
        if first {
            self.changed.notify_one();
        }
        Presence::new(handle)
    }

    /// Tries to make room for one more connection when all places are taken. Returns when to try
    /// again.
    pub(crate) fn make_room(&self) -> Instant {
        let now = Instant::now();
        let room = self.crowd().make_room(now);
        match room {
            Room::Made(handle) => {
                self.apply(vec![StrangerAction::Close(handle, Why::Evicted)]);
                now + Duration::from_secs(1)
            }
            Room::At(at) => at,
            Room::None => now + Duration::from_secs(1),
        }
    }

    /// Closes strangers whose time is over, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut forget = Instant::now() + FORGET_EVERY;
        while !stop.is_cancelled() {
            let now = Instant::now();
            if now >= forget {
                self.guesses.forget();
                forget = now + FORGET_EVERY;
            }
            let (actions, next) = {
                let mut crowd = self.crowd();
                let actions = crowd.close_overdue(now);
                set(&self.metrics.edge.strangers, crowd.len());
                (actions, crowd.next_deadline())
            };
            self.apply(actions);
            let next = next
                .unwrap_or(forget)
                .clamp(now + CHECK_EVERY, forget.max(now + CHECK_EVERY));
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn apply(&self, actions: Vec<StrangerAction<ConnectionHandle>>) {
        for action in actions {
            match action {
                StrangerAction::Admit(handle) => handle.admit(),
                StrangerAction::Close(handle, why) => {
                    self.metrics.edge.connections.with_label(why.label()).inc();
                    self.refused(handle.source(), why.label(), &why.detail());
                    handle.close(why.detail());
                }
            }
        }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd<ConnectionHandle>> {
        self.crowd.lock()
    }
}

impl Watch for Strangers {
    fn locate(&self, number: u64, source: Source) {
        let (actions, first) = {
            let mut crowd = self.crowd();
            let waited = crowd.has_waiting();
            let actions = crowd.locate(number, source, Instant::now());
            (actions, crowd.has_waiting() && !waited)
        };
        self.apply(actions);
        if first {
            self.changed.notify_one();
        }
    }

    fn forget(&self, number: u64) {
        let actions = {
            let mut crowd = self.crowd();
            let actions = crowd.forget(number, Instant::now());
            set(&self.metrics.edge.strangers, crowd.len());
            actions
        };
        self.apply(actions);
    }

    fn may_guess(&self, credential: Credential, source: Source) -> Result<(), Duration> {
        self.guesses.take(credential, source)
    }

    fn refused(&self, source: Source, reason: &'static str, detail: &dyn fmt::Display) {
        self.metrics.edge.refusals.with_label(reason).inc();
        let line = self.refusals.lock().note(source, Instant::now());
        let Some(LogLine { source, untold }) = line else {
            return;
        };
        let mut detail = detail.to_string();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        let source = source.map_or_else(|| "many".to_owned(), |source| source.to_string());
        tracing::info!(
            source,
            reason,
            why = detail,
            untold,
            "a stranger was refused; the next minute's from there are only counted"
        );
    }
}
