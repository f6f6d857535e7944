//! Tables of starts, gates and spreads; a spread reaches all targets in time. Windows have a file
//! of their own.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

mod windows;

fn at(text: &str) -> Timestamp {
    timestamp(text.parse().unwrap())
}

fn windows(texts: &[&str]) -> Schedule {
    Schedule {
        windows: texts
            .iter()
            .map(|text| Window::parse(text).unwrap())
            .collect(),
        ..Schedule::default()
    }
}

fn closed_until(text: &str) -> Gate {
    Gate::Closed {
        until: Some(at(text)),
    }
}

fn open(since: &str, until: &str) -> Gate {
    Gate::Open {
        since: Some(at(since)),
        until: Some(at(until)),
    }
}

/// Whether a target may begin at this moment.
fn is_due(schedule: &Schedule, released: Timestamp, share: Share, now: Option<Timestamp>) -> bool {
    let waits = schedule.begins_within(Duration::from_secs(3600), released, share, now);
    waits == Some(Duration::ZERO)
}

#[test]
fn a_start_holds_everything_back_and_windows_count_after_it() {
    let mut schedule = windows(&["daily 02:00-04:00 UTC"]);
    schedule.start = Some(at("2026-11-25T03:00:00Z"));
    assert_eq!(
        schedule.gate(at("2026-11-25T02:30:00Z")),
        closed_until("2026-11-25T03:00:00Z")
    );
    assert_eq!(
        schedule.gate(at("2026-11-25T03:30:00Z")),
        open("2026-11-25T03:00:00Z", "2026-11-25T04:00:00Z")
    );
    schedule.start = Some(at("2026-11-25T12:00:00Z"));
    assert_eq!(
        schedule.gate(at("2026-11-25T02:30:00Z")),
        closed_until("2026-11-26T02:00:00Z")
    );
    schedule.windows.clear();
    assert_eq!(
        schedule.gate(at("2026-11-25T02:30:00Z")),
        closed_until("2026-11-25T12:00:00Z")
    );
    assert!(schedule.gate(at("2026-11-25T12:00:00Z")).is_open());
}

#[test]
fn schedules_under_which_nothing_could_begin_are_refused() {
    let now = at("2026-11-25T12:00:00Z");
    let with = |start: Option<&str>, texts: &[&str], deadline: Option<&str>| Schedule {
        start: start.map(at),
        deadline: deadline.map(at),
        ..windows(texts)
    };
    let (night, past) = ("daily 02:00-04:00 UTC", "2026-11-25 10:00-11:00 UTC");
    let table = [
        (with(None, &[], None), None),
        // A start in the past begins at once.
        (with(Some("2026-11-01T00:00:00Z"), &[night], None), None),
        (with(None, &[night, past], None), Some("schedule.windows")),
        (
            with(
                Some("2026-11-26T00:00:00Z"),
                &["2026-11-25 13:00-14:00 UTC"],
                None,
            ),
            Some("schedule.windows"),
        ),
        (
            with(None, &[], Some("2026-11-25T12:00:00Z")),
            Some("schedule.deadline"),
        ),
        (
            with(
                Some("2026-11-25T14:00:00Z"),
                &[],
                Some("2026-11-25T13:00:00Z"),
            ),
            Some("schedule.deadline"),
        ),
        (
            with(None, &[night], Some("2026-11-26T02:00:00Z")),
            Some("schedule.deadline"),
        ),
        (with(None, &[night], Some("2026-11-26T02:00:01Z")), None),
        (
            Schedule {
                spread: MAX_SPREAD * 2,
                ..Schedule::default()
            },
            Some("schedule.spread_seconds"),
        ),
        (
            with(None, &[night; MAX_WINDOWS + 1], None),
            Some("schedule.windows"),
        ),
    ];
    for (schedule, wanted) in table {
        let fault = schedule.fault(now);
        assert_eq!(
            fault.as_ref().map(|(field, _)| *field),
            wanted,
            "{schedule:?}: {fault:?}"
        );
    }
}

#[test]
fn a_spread_is_even_and_the_same_each_time() {
    let deployment = DeploymentId(Uuid::from_u128(7));
    let minute = Duration::from_secs(60);
    let mut minutes = [0_u32; 10];
    for n in 0..10_000 {
        let device = DeviceId(Uuid::from_u128(n));
        let share = Share::new(deployment, device);
        assert_eq!(share, Share::new(deployment, device));
        minutes[(share.of(minute * 10).as_secs() / 60) as usize] += 1;
    }
    assert!(
        minutes.iter().all(|n| (850..1150).contains(n)),
        "{minutes:?}"
    );
}

#[test]
fn a_target_that_is_released_late_waits_its_share_from_then() {
    let half = Share(1 << 31);
    let schedule = Schedule {
        spread: Duration::from_secs(600),
        ..windows(&["daily 02:00-04:00 UTC"])
    };
    let table = [
        // Opened before the window: from its opening on.
        ("2026-11-25T00:00:00Z", "2026-11-25T02:04:59Z", false),
        ("2026-11-25T00:00:00Z", "2026-11-25T02:05:00Z", true),
        ("2026-11-25T03:00:00Z", "2026-11-25T03:04:59Z", false),
        ("2026-11-25T03:00:00Z", "2026-11-25T03:05:00Z", true),
        // Four minutes are left, and its share is two of them.
        ("2026-11-25T03:56:00Z", "2026-11-25T03:57:59Z", false),
        ("2026-11-25T03:56:00Z", "2026-11-25T03:58:00Z", true),
        ("2026-11-25T03:56:00Z", "2026-11-25T04:00:00Z", false),
    ];
    for (released, now, wanted) in table {
        assert_eq!(
            is_due(&schedule, at(released), half, Some(at(now))),
            wanted,
            "{released} {now}"
        );
        let begins = schedule.begins_at(at(released), half, at(now));
        let begins = begins.expect("it opens every day");
        assert_eq!(begins <= at(now), wanted, "{released} {now}: {begins:?}");
    }
}

#[test]
fn when_a_target_begins_is_known_beforehand() {
    let (share, spread) = (Share(1 << 31), Duration::from_secs(600));
    let nightly = windows(&["daily 02:00-04:00 UTC"]);
    let spread_out = Schedule {
        spread,
        ..nightly.clone()
    };
    let late = Schedule {
        start: Some(at("2026-11-25T03:58:00Z")),
        ..spread_out.clone()
    };
    let table = [
        (
            &nightly,
            "2026-11-25T00:00:00Z",
            Some("2026-11-25T02:00:00Z"),
        ),
        (
            &spread_out,
            "2026-11-25T00:00:00Z",
            Some("2026-11-25T02:05:00Z"),
        ),
        (
            &spread_out,
            "2026-11-25T03:00:00Z",
            Some("2026-11-25T03:05:00Z"),
        ),
        (
            &spread_out,
            "2026-11-25T04:00:00Z",
            Some("2026-11-26T02:05:00Z"),
        ),
        // Two minutes are left after the start.
        (&late, "2026-11-25T00:00:00Z", Some("2026-11-25T03:59:00Z")),
        (
            &windows(&["2026-11-24 02:00-04:00 UTC"]),
            "2026-11-25T00:00:00Z",
            None,
        ),
    ];
    for (schedule, now, wanted) in table {
        let begins = schedule.begins_at(at(now), share, at(now));
        assert_eq!(begins, wanted.map(at), "{schedule:?} at {now}");
    }
}

#[test]
fn while_nobody_knows_the_time_nothing_begins_that_waits_for_one() {
    let released = at("2026-11-25T00:00:00Z");
    let delays = [
        Schedule {
            start: Some(at("2020-01-01T00:00:00Z")),
            ..Schedule::default()
        },
        windows(&["daily 00:00-24:00 UTC"]),
    ];
    for schedule in delays {
        assert!(!schedule.gate_by(None).is_open(), "{schedule:?}");
        assert!(!is_due(&schedule, released, Share(0), None), "{schedule:?}");
        assert_eq!(schedule.gate_by(Some(released)), schedule.gate(released));
    }
    let spread = Schedule {
        spread: Duration::from_secs(600),
        ..Schedule::default()
    };
    assert!(spread.gate_by(None).is_open() && !is_due(&spread, released, Share(0), None));
    let at_once = Schedule {
        deadline: Some(released),
        ..Schedule::default()
    };
    assert!(at_once.gate_by(None).is_open() && is_due(&at_once, released, Share(0), None));
}

#[test]
fn a_moment_that_is_near_is_told_to_the_microsecond() {
    let seconds = Duration::from_secs;
    let half = Share(1 << 31);
    let schedule = Schedule {
        spread: seconds(600),
        ..windows(&["daily 02:00-04:00 UTC"])
    };
    let released = at("2026-11-25T00:00:00Z");
    let table = [
        // It begins at 02:05. The window is open, opens soon, or opens later than that.
        ("2026-11-25T02:04:00Z", 60, Some(60)),
        ("2026-11-25T02:04:00Z", 59, None),
        ("2026-11-25T01:59:00Z", 360, Some(360)),
        ("2026-11-25T01:59:00Z", 359, None),
        ("2026-11-25T01:59:00Z", 30, None),
        ("2026-11-25T02:05:00Z", 0, Some(0)),
        ("2026-11-25T03:00:00Z", 0, Some(0)),
    ];
    for (now, soon, wanted) in table {
        let told = schedule.begins_within(seconds(soon), released, half, Some(at(now)));
        assert_eq!(told, wanted.map(seconds), "{now} within {soon} s");
    }
}

proptest! {
    #[test]
    fn an_opening_that_is_announced_is_one(
        now in 1_700_000_000_000_000_i64..2_000_000_000_000_000,
        first in 0..7_usize, from in 0..1440_i32, length in 1..1440_i32,
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]),
    ) {
        let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][first];
        let clock = |minutes: i32| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
        let schedule = windows(&[&format!("{day} {}-{} {zone}", clock(from), clock(from + length))]);
        let now = Timestamp(now);
        match schedule.gate(now) {
            Gate::Closed { until } => {
                let opens = until.unwrap();
                prop_assert!(opens > now);
                prop_assert!(schedule.gate(opens).is_open());
                prop_assert!(!schedule.gate(Timestamp(opens.0 - 1)).is_open());
            }
            Gate::Open { since, until } => {
                prop_assert!(since.unwrap() <= now && now < until.unwrap());
                prop_assert_eq!(schedule.gate(since.unwrap()), schedule.gate(now));
                prop_assert!(!schedule.gate(until.unwrap()).is_open());
            }
        }
    }

    #[test]
    fn every_share_comes_before_the_window_closes(share: u32, spread in 0..86_400_u64, released in 0..7200_u64) {
        let schedule = Schedule { spread: Duration::from_secs(spread), ..windows(&["daily 02:00-04:00 UTC"]) };
        let released = at("2026-11-25T02:00:00Z").plus(Duration::from_secs(released));
        let last = Timestamp(at("2026-11-25T04:00:00Z").0 - 1);
        prop_assert!(is_due(&schedule, released, Share(share), Some(last)));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[A-Za-z0-9:,ä -]{0,40}") {
        let _ = Window::parse(&text);
    }
}
