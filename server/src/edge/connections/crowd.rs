//! Decides which strangers stay, wait or go. Pure bookkeeping: it is told the time and says what to
//! do.
//!
//! A stranger is a connection on which nothing has authenticated. It has
//! [`StrangerLimits::probation`] in all. Only so many of one source are let inside. The others wait
//! in front, unread and without TLS.
//!
//! While some wait, those inside are only sure of [`StrangerLimits::patience`]. An honest caller
//! needs far less, so the oldest of those who merely hold a place makes room. They go one by one
//! and slowly ([`StrangerLimits::pace`]), because a slow server must not turn away those it is
//! working on.
//!
//! A free place goes in turns to the newest of those who wait and to one drawn by lot. Against many
//! who hold on, the newest gets in at once. Against many who keep coming, everybody has a chance.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::source::Source;

/// Strangers of a source that may wait, for each that may be inside.
const WAITING: usize = 4;

/// How many strangers there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StrangerLimits {
    /// Time from its arrival after which a stranger is closed.
    pub(crate) probation: Duration,
    /// Time inside that a stranger is sure of while others wait.
    pub(crate) patience: Duration,
    /// Strangers of one source that may be inside; 0 for no limit.
    pub(crate) of_one_source: usize,
    /// Connections in all, strangers or not.
    pub(crate) in_all: usize,
}

impl StrangerLimits {
    /// Time between two strangers who have to leave one of `places`. At least half of them have
    /// their whole probation.
    fn pace(&self, places: usize) -> Duration {
        self.probation / u32::try_from(2 * places.max(1)).unwrap_or(u32::MAX)
    }
}

/// Why the server closed a stranger's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing on it has authenticated in time.
    Unproven,
    /// There were too many strangers of its source.
    Crowded,
    /// It had to make room for another connection.
    Evicted,
}

impl Why {
    /// The label that closed strangers are counted by.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Crowded => "crowded",
            Self::Evicted => "evicted",
        }
    }

    /// The text for the log.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Unproven => "no call on it authenticated in time",
            Self::Crowded => {
                "too many connections of its source on which nothing has authenticated"
            }
            Self::Evicted => "it made room for another connection",
        }
    }
}

/// What has to be done with a stranger.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StrangerAction<L> {
    /// It may go on to TLS.
    Admit(L),
    Close(L, Why),
}

/// How one more connection gets a place when all are taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room<L> {
    /// This stranger has to be closed.
    Made(L),
    /// A stranger may have to go at this instant, and not before.
    At(Instant),
    /// There is no stranger.
    None,
}

#[derive(Debug)]
struct Stranger<L> {
    link: L,
    arrived: Instant,
    source: Option<Source>,
    /// When it was let inside.
    inside: Option<Instant>,
}

/// The strangers of one source.
#[derive(Debug, Default)]
struct SourcePlaces {
    inside: BTreeSet<(Instant, u64)>,
    /// In the order of their arrival, but for those that were put where one drawn by lot had been.
    waiting: Vec<u64>,
    /// No place is taken from its holder before this.
    not_before: Option<Instant>,
    /// Whether the next free place goes to one drawn by lot.
    by_lot: bool,
}

/// All strangers. `L` is the way to reach one.
#[derive(Debug)]
pub(super) struct Crowd<L> {
    limits: StrangerLimits,
    lot: StdRng,
    next: u64,
    /// By number, so by arrival.
    strangers: BTreeMap<u64, Stranger<L>>,
    sources: HashMap<Source, SourcePlaces>,
    /// Sources with strangers who wait.
    crowded: HashSet<Source>,
    /// Nobody has to make room before this.
    not_before: Option<Instant>,
}

impl<L: Clone> Crowd<L> {
    pub(super) fn new(limits: StrangerLimits, seed: u64) -> Self {
        Self {
            limits,
            lot: StdRng::seed_from_u64(seed),
            next: 0,
            strangers: BTreeMap::new(),
            sources: HashMap::new(),
            crowded: HashSet::new(),
            not_before: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.strangers.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Adds a stranger whose source is not known yet. Returns its number.
    pub(super) fn arrive(&mut self, link: L, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        let stranger = Stranger {
            link,
            arrived: now,
            source: None,
            inside: None,
        };
        self.strangers.insert(id, stranger);
        id
    }

    /// Says where a stranger comes from. It is let inside, or waits.
    pub(super) fn locate(
        &mut self,
        id: u64,
        source: Source,
        now: Instant,
    ) -> Vec<StrangerAction<L>> {
        let Some(stranger) = self.strangers.get_mut(&id) else {
            return Vec::new();
        };
        stranger.source = Some(source);
        let places = self.sources.entry(source).or_default();
        places.waiting.push(id);
        let mut actions = self.admit_waiting(source, now);
        if self.waiting(source) > WAITING * self.limits.of_one_source {
            let unlucky = self.draw_waiting(source).and_then(|id| self.remove(id));
            actions
                .extend(unlucky.map(|stranger| StrangerAction::Close(stranger.link, Why::Crowded)));
        }
        actions
    }

    /// Removes a stranger that has authenticated or is gone.
    pub(super) fn forget(&mut self, id: u64, now: Instant) -> Vec<StrangerAction<L>> {
        let source = self.remove(id).and_then(|stranger| stranger.source);
        source.map_or_else(Vec::new, |source| self.admit_waiting(source, now))
    }

    /// Closes the strangers whose time is over, and lets others in.
    pub(super) fn close_overdue(&mut self, now: Instant) -> Vec<StrangerAction<L>> {
        let mut actions = Vec::new();
        while let Some((&id, oldest)) = self.strangers.first_key_value() {
            if oldest.arrived + self.limits.probation > now {
                break;
            }
            if let Some(stranger) = self.remove(id) {
                actions.push(StrangerAction::Close(stranger.link, Why::Unproven));
                let source = stranger.source;
                actions
                    .extend(source.map_or_else(Vec::new, |source| self.admit_waiting(source, now)));
            }
        }
        for source in self.crowded.iter().copied().collect::<Vec<_>>() {
            actions.extend(self.admit_waiting(source, now));
        }
        actions
    }

    /// Finds room for one more connection. A stranger who waits has to go, or else the oldest one
    /// inside, once its patience is over.
    pub(super) fn make_room(&mut self, now: Instant) -> Room<L> {
        let crowded = self.crowded.iter().next().copied();
        if let Some(unlucky) = crowded.and_then(|source| self.draw_waiting(source)) {
            return self
                .remove(unlucky)
                .map_or(Room::None, |stranger| Room::Made(stranger.link));
        }
        let Some((&id, oldest)) = self.strangers.first_key_value() else {
            return Room::None;
        };
        let at = (oldest.arrived + self.limits.patience).max(self.not_before.unwrap_or(now));
        if at > now {
            return Room::At(at);
        }
        self.not_before = Some(now + self.limits.pace(self.limits.in_all));
        let source = oldest.source;
        let gone = self.remove(id);
        // Nobody of this source waits, because they would have gone first.
        debug_assert!(source.is_none_or(|source| self.waiting(source) == 0));
        gone.map_or(Room::None, |stranger| Room::Made(stranger.link))
    }

    /// When [`Self::close_overdue`] may have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.strangers.first_key_value();
        let probation = oldest.map(|(_, oldest)| oldest.arrived + self.limits.probation);
        let held = self.crowded.iter().filter_map(|source| {
            let places = self.sources.get(source)?;
            places.next_taken(self.limits.patience).map(|(at, _)| at)
        });
        held.chain(probation).min()
    }

    /// Lets in strangers who wait: as many as there are free places, and holders whose patience is
    /// over.
    fn admit_waiting(&mut self, source: Source, now: Instant) -> Vec<StrangerAction<L>> {
        let mut actions = Vec::new();
        let most = match self.limits.of_one_source {
            0 => usize::MAX,
            most => most,
        };
        while let Some(places) = self.sources.get_mut(&source) {
            if places.waiting.is_empty() {
                break;
            }
            if places.inside.len() >= most {
                match places.next_taken(self.limits.patience) {
                    Some((at, id)) if at <= now => {
                        places.not_before = Some(now + self.limits.pace(most));
                        let gone = self.remove(id);
                        actions.extend(
                            gone.map(|stranger| StrangerAction::Close(stranger.link, Why::Crowded)),
                        );
                        continue;
                    }
                    _ => break,
                }
            }
            let newest = places.waiting.len() - 1;
            let lucky = if places.by_lot {
                self.lot.random_range(0..=newest)
            } else {
                newest
            };
            places.by_lot = !places.by_lot;
            let id = places.waiting.swap_remove(lucky);
            if let Some(stranger) = self.strangers.get_mut(&id) {
                stranger.inside = Some(now);
                places.inside.insert((now, id));
                actions.push(StrangerAction::Admit(stranger.link.clone()));
            }
        }
        self.update_crowded(source);
        actions
    }

    fn remove(&mut self, id: u64) -> Option<Stranger<L>> {
        let stranger = self.strangers.remove(&id)?;
        if let Some(source) = stranger.source
            && let Some(places) = self.sources.get_mut(&source)
        {
            match stranger.inside {
                Some(since) => {
                    places.inside.remove(&(since, id));
                }
                None => places.waiting.retain(|waiting| *waiting != id),
            }
            self.update_crowded(source);
        }
        Some(stranger)
    }

    /// Draws one of those who wait, by lot.
    fn draw_waiting(&mut self, source: Source) -> Option<u64> {
        let waiting = &self.sources.get(&source)?.waiting;
        (!waiting.is_empty()).then(|| waiting[self.lot.random_range(0..waiting.len())])
    }

    fn waiting(&self, source: Source) -> usize {
        self.sources
            .get(&source)
            .map_or(0, |places| places.waiting.len())
    }

    /// Notes whether strangers of this source wait, and forgets a source without any.
    fn update_crowded(&mut self, source: Source) {
        let Some(places) = self.sources.get(&source) else {
            return;
        };
        if !places.waiting.is_empty() {
            self.crowded.insert(source);
            return;
        }
        self.crowded.remove(&source);
        if places.inside.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl SourcePlaces {
    /// Who has to leave its place next, and when.
    fn next_taken(&self, patience: Duration) -> Option<(Instant, u64)> {
        let (since, id) = self.inside.first().copied()?;
        let at = since + patience;
        Some((self.not_before.map_or(at, |earliest| at.max(earliest)), id))
    }
}

#[cfg(test)]
mod tests;
