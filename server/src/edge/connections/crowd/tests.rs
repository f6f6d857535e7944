use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(2);

fn limits(of_one_source: usize) -> StrangerLimits {
    StrangerLimits {
        probation: Duration::from_secs(15),
        patience: PATIENCE,
        of_one_source,
        in_all: 100,
    }
}

fn source(last: u8) -> Source {
    Source::from(IpAddr::from([192, 0, 2, last]))
}

/// A crowd whose links are numbers, and `count` strangers of one source in it.
fn crowd(of_one_source: usize, count: u64, now: Instant) -> (Crowd<u64>, Vec<StrangerAction<u64>>) {
    let mut crowd = Crowd::new(limits(of_one_source), 7);
    let mut actions = Vec::new();
    for _ in 0..count {
        actions.extend(come(&mut crowd, source(1), now));
    }
    (crowd, actions)
}

/// The next stranger; its link is its number.
fn come(crowd: &mut Crowd<u64>, from: Source, now: Instant) -> Vec<StrangerAction<u64>> {
    let link = crowd.next;
    let id = crowd.arrive(link, now);
    crowd.locate(id, from, now)
}

#[test]
fn so_many_of_one_source_are_inside_and_the_next_waits_until_one_is_known() {
    let now = Instant::now();
    let (mut crowd, actions) = crowd(2, 3, now);
    assert_eq!(
        actions,
        [StrangerAction::Admit(0), StrangerAction::Admit(1)]
    );
    // Another source has places of its own.
    assert_eq!(come(&mut crowd, source(2), now), [StrangerAction::Admit(3)]);
    assert_eq!(crowd.forget(1, now), [StrangerAction::Admit(2)]);
    assert_eq!(crowd.forget(0, now), []);
    assert_eq!(crowd.len(), 2);
}

#[test]
fn who_holds_a_place_while_others_wait_makes_room_after_its_patience() {
    let now = Instant::now();
    let (mut crowd, _) = crowd(2, 4, now);
    assert_eq!(crowd.next_deadline(), Some(now + PATIENCE));
    assert_eq!(
        crowd.close_overdue(now + PATIENCE - Duration::from_millis(1)),
        []
    );
    let late = now + PATIENCE;
    // The newest of those who wait gets the place, and the next place is not taken at once.
    assert_eq!(
        crowd.close_overdue(late),
        [
            StrangerAction::Close(0, Why::Crowded),
            StrangerAction::Admit(3)
        ]
    );
    let next = late + limits(2).pace(2);
    assert_eq!(crowd.next_deadline(), Some(next));
    assert_eq!(
        crowd.close_overdue(next),
        [
            StrangerAction::Close(1, Why::Crowded),
            StrangerAction::Admit(2)
        ]
    );
}

#[test]
fn nobody_makes_room_while_nobody_waits_and_the_probation_ends_all_the_same() {
    let now = Instant::now();
    let (mut crowd, _) = crowd(2, 2, now);
    let end = now + limits(2).probation;
    assert_eq!(crowd.next_deadline(), Some(end));
    assert_eq!(crowd.close_overdue(end - Duration::from_millis(1)), []);
    let closed = [0, 1].map(|link| StrangerAction::Close(link, Why::Unproven));
    assert_eq!(crowd.close_overdue(end), closed);
    assert_eq!((crowd.len(), crowd.sources.len()), (0, 0));
    assert_eq!(crowd.next_deadline(), None);
}

#[test]
fn the_time_of_who_waits_or_never_says_where_it_is_from_ends_too() {
    let now = Instant::now();
    let (mut crowd, _) = crowd(1, 2, now);
    crowd.arrive(2, now);
    let actions = crowd.close_overdue(now + limits(1).probation);
    let unproven = actions
        .iter()
        .filter(|action| matches!(action, StrangerAction::Close(..)))
        .count();
    assert_eq!((unproven, crowd.len()), (3, 0), "{actions:?}");
}

#[test]
fn no_more_than_some_wait() {
    let now = Instant::now();
    let (crowd, actions) = crowd(2, 2 + 2 * WAITING as u64 + 5, now);
    let closed = actions
        .iter()
        .filter(|action| matches!(action, StrangerAction::Close(_, Why::Crowded)))
        .count();
    assert_eq!((closed, crowd.len()), (5, 2 + 2 * WAITING));
}

#[test]
fn without_a_cap_nobody_waits() {
    let now = Instant::now();
    let (crowd, actions) = crowd(0, 1000, now);
    assert!(
        actions
            .iter()
            .all(|action| matches!(action, StrangerAction::Admit(_)))
    );
    assert_eq!((actions.len(), crowd.len()), (1000, 1000));
}

#[test]
fn room_is_made_by_who_waits_first_and_then_by_the_oldest() {
    let now = Instant::now();
    let (mut crowd, _) = crowd(2, 3, now);
    assert_eq!(crowd.make_room(now), Room::Made(2));
    assert_eq!(crowd.make_room(now), Room::At(now + PATIENCE));
    let late = now + PATIENCE;
    assert_eq!(crowd.make_room(late), Room::Made(0));
    assert_eq!(
        crowd.make_room(late),
        Room::At(late + limits(2).pace(100)),
        "not all at once"
    );
    assert_eq!(crowd.make_room(late + PATIENCE), Room::Made(1));
    assert_eq!(crowd.make_room(late + PATIENCE), Room::None);
}

#[test]
fn a_server_slower_than_the_patience_still_finishes_somebody() {
    // Chance decides who is turned away, so a single run says little.
    const RUNS: u32 = 24;
    let ends: Vec<(u32, u32)> = (0..u64::from(RUNS)).map(slow_server).collect();
    let finished: u32 = ends.iter().map(|(finished, _)| finished).sum();
    // It could finish 427 in each run if it only worked on those that it lets finish.
    assert!(
        finished > RUNS * 427 / 3,
        "finished, and turned away: {ends:?}"
    );
}

/// How many strangers a server finished that is too slow for them, and how many it turned away.
fn slow_server(seed: u64) -> (u32, u32) {
    // All strangers inside are worked on at the same pace. While all places are taken, one needs
    // three times the patience.
    let (most, work) = (64, 3.0 * PATIENCE.as_secs_f64() / 64.0);
    let mut now = Instant::now();
    let mut crowd = Crowd::new(limits(most), seed);
    let mut inside = HashMap::<u64, f64>::new();
    let (mut finished, mut turned_away) = (0u32, 0u32);
    let step = Duration::from_millis(10);
    for _ in 0..4000 {
        let mut actions = Vec::new();
        while crowd.len() < 3 * most {
            actions.extend(come(&mut crowd, source(1), now));
        }
        actions.extend(crowd.close_overdue(now));
        let share = step.as_secs_f64() / work / inside.len().max(1) as f64;
        for done in inside.values_mut() {
            *done += share;
        }
        let done: Vec<u64> = inside
            .iter()
            .filter(|(_, done)| **done >= 1.0)
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            inside.remove(&id);
            finished += 1;
            actions.extend(crowd.forget(id, now));
        }
        for action in actions {
            match action {
                StrangerAction::Admit(id) => {
                    inside.insert(id, 0.0);
                }
                StrangerAction::Close(id, _) => {
                    turned_away += u32::from(inside.remove(&id).is_some());
                }
            }
        }
        now += step;
    }
    (finished, turned_away)
}

proptest! {
    #[test]
    fn nothing_is_counted_twice_or_forgotten(
        steps in prop::collection::vec((0u8..5, 0u8..4, 0u64..3000), 1..200),
        most in 0usize..4,
    ) {
        let mut now = Instant::now();
        let mut crowd = Crowd::new(limits(most), 7);
        let mut here = BTreeSet::new();
        for (what, whose, millis) in steps {
            let actions = match what {
                0 | 1 => {
                    here.insert(crowd.next);
                    come(&mut crowd, source(whose), now)
                }
                2 => {
                    let leaver = here.iter().nth(usize::from(whose)).copied();
                    leaver.map_or_else(Vec::new, |id| {
                        here.remove(&id);
                        crowd.forget(id, now)
                    })
                }
                3 => match crowd.make_room(now) {
                    Room::Made(link) => vec![StrangerAction::Close(link, Why::Evicted)],
                    _ => Vec::new(),
                },
                _ => {
                    now += Duration::from_millis(millis);
                    crowd.close_overdue(now)
                }
            };
            for action in actions {
                if let StrangerAction::Close(link, _) = action {
                    prop_assert!(here.remove(&link), "{link} was closed twice");
                }
            }
            prop_assert_eq!(crowd.len(), here.len());
            let mut counted = 0;
            for (source, places) in &crowd.sources {
                prop_assert!(most == 0 || places.inside.len() <= most);
                prop_assert!(places.waiting.is_empty() || places.inside.len() >= most);
                prop_assert_eq!(crowd.crowded.contains(source), !places.waiting.is_empty());
                prop_assert!(places.waiting.len() + places.inside.len() > 0);
                counted += places.waiting.len() + places.inside.len();
            }
            prop_assert_eq!(counted, here.len());
            prop_assert!(crowd.crowded.len() <= crowd.sources.len());
            prop_assert_eq!(crowd.next_deadline().is_some(), !here.is_empty());
        }
    }
}
