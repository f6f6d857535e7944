//! Windows by tables, clocks that are put forward and back, and a spread that reaches everybody in time.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

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

#[test]
fn windows_open_and_close_by_the_clock_of_their_place() {
    let night = "Mon-Fri 02:00-04:00 Europe/Berlin";
    let table = [
        // Winter, an hour ahead of UTC. 2026-11-25 is a Wednesday.
        (
            night,
            "2026-11-25T00:59:59Z",
            closed_until("2026-11-25T01:00:00Z"),
        ),
        (
            night,
            "2026-11-25T01:00:00Z",
            open("2026-11-25T01:00:00Z", "2026-11-25T03:00:00Z"),
        ),
        (
            night,
            "2026-11-25T02:59:59Z",
            open("2026-11-25T01:00:00Z", "2026-11-25T03:00:00Z"),
        ),
        (
            night,
            "2026-11-25T03:00:00Z",
            closed_until("2026-11-26T01:00:00Z"),
        ),
        // Over the weekend, and in summer two hours ahead.
        (
            night,
            "2026-11-27T03:00:00Z",
            closed_until("2026-11-30T01:00:00Z"),
        ),
        (
            night,
            "2026-07-01T00:00:00Z",
            open("2026-07-01T00:00:00Z", "2026-07-01T02:00:00Z"),
        ),
        // Over midnight it belongs to the day it opened on.
        (
            "Sat 22:00-06:00 UTC",
            "2026-11-29T05:00:00Z",
            open("2026-11-28T22:00:00Z", "2026-11-29T06:00:00Z"),
        ),
        (
            "Sat 22:00-06:00 UTC",
            "2026-11-28T05:00:00Z",
            closed_until("2026-11-28T22:00:00Z"),
        ),
        (
            "Sat-Mon 00:00-01:00 UTC",
            "2026-11-30T00:30:00Z",
            open("2026-11-30T00:00:00Z", "2026-11-30T01:00:00Z"),
        ),
        (
            "Dec 24 12:00-24:00 UTC",
            "2026-11-25T00:00:00Z",
            closed_until("2026-12-24T12:00:00Z"),
        ),
        (
            "Feb 29 00:00-01:00 UTC",
            "2026-11-25T00:00:00Z",
            closed_until("2028-02-29T00:00:00Z"),
        ),
        (
            "2026-11-25 12:00-13:00 UTC",
            "2026-11-25T13:00:00Z",
            Gate::Closed { until: None },
        ),
        // A place where the new year comes fourteen hours before UTC's.
        (
            "Jan 1 00:00-01:00 Pacific/Kiritimati",
            "2026-12-31T10:30:00Z",
            open("2026-12-31T10:00:00Z", "2026-12-31T11:00:00Z"),
        ),
    ];
    for (window, now, wanted) in table {
        assert_eq!(
            windows(&[window]).gate(at(now)),
            wanted,
            "{window} at {now}"
        );
    }
}

#[test]
fn windows_that_touch_are_one_opening() {
    let schedule = windows(&[
        "Mon 23:00-24:00 UTC",
        "Tue 00:00-01:00 UTC",
        "Tue 05:00-06:00 UTC",
    ]);
    let wanted = open("2026-11-23T23:00:00Z", "2026-11-24T01:00:00Z");
    assert_eq!(schedule.gate(at("2026-11-23T23:30:00Z")), wanted);
    assert_eq!(schedule.gate(at("2026-11-24T00:30:00Z")), wanted);
    assert_eq!(
        schedule.gate(at("2026-11-24T02:00:00Z")),
        closed_until("2026-11-24T05:00:00Z")
    );
}

#[test]
fn an_hour_that_is_skipped_in_spring_is_no_part_of_a_window() {
    // Berlin goes from 02:00 to 03:00 at 01:00 UTC on 2027-03-28.
    let across = windows(&["daily 01:30-04:00 Europe/Berlin"]);
    let wanted = open("2027-03-28T00:30:00Z", "2027-03-28T02:00:00Z");
    assert_eq!(across.gate(at("2027-03-28T00:45:00Z")), wanted);
    let begins_inside = windows(&["daily 02:30-04:00 Europe/Berlin"]);
    let wanted = open("2027-03-28T01:00:00Z", "2027-03-28T02:00:00Z");
    assert_eq!(begins_inside.gate(at("2027-03-28T01:00:00Z")), wanted);
    let inside = windows(&["daily 02:10-02:50 Europe/Berlin"]);
    assert_eq!(
        inside.gate(at("2027-03-27T12:00:00Z")),
        closed_until("2027-03-29T00:10:00Z"),
        "there is none that day"
    );
}

#[test]
fn an_hour_that_comes_twice_in_autumn_is_in_a_window_twice() {
    // Berlin goes from 03:00 back to 02:00 at 01:00 UTC on 2027-10-31.
    let whole = windows(&["Sun 02:00-03:00 Europe/Berlin"]);
    let wanted = open("2027-10-31T00:00:00Z", "2027-10-31T02:00:00Z");
    assert_eq!(
        whole.gate(at("2027-10-31T01:30:00Z")),
        wanted,
        "two hours in one piece"
    );
    let half = windows(&["Sun 02:30-03:00 Europe/Berlin"]);
    let first = open("2027-10-31T00:30:00Z", "2027-10-31T01:00:00Z");
    assert_eq!(half.gate(at("2027-10-31T00:40:00Z")), first);
    assert_eq!(
        half.gate(at("2027-10-31T01:10:00Z")),
        closed_until("2027-10-31T01:30:00Z")
    );
    let second = open("2027-10-31T01:30:00Z", "2027-10-31T02:00:00Z");
    assert_eq!(half.gate(at("2027-10-31T01:40:00Z")), second);
}

#[test]
fn mistakes_in_windows_are_shown_where_they_are() {
    for (text, place, why) in [
        ("", 0, "hours"),
        ("Mon-Fri", 7, "hours"),
        ("02:00-04:00 UTC", 0, "days"),
        ("Mon-Fri 02:00-04:00", 19, "time zone"),
        ("Mon-Fri 02:00-04:00 Europe/Atlantis", 20, "no time zone"),
        ("Mon-Fri 02:00-04:00 UTC tomorrow", 24, "nothing"),
        ("Mon-Fry 02:00-04:00 UTC", 4, "no weekday"),
        ("Mon,,Tue 02:00-04:00 UTC", 4, "no weekday"),
        ("Sat,Son 02:00-04:00 UTC", 4, "no weekday"),
        ("daily 02:00 UTC", 6, "span"),
        ("daily 24:00-25:00 UTC", 6, "no time of day"),
        ("daily 02:00-2:30 UTC", 12, "no time of day"),
        ("daily 02:60-03:00 UTC", 6, "no time of day"),
        ("daily 02:00-02:00 UTC", 12, "never opens"),
        ("Feb 30 02:00-04:00 UTC", 4, "never opens"),
        ("Foo 3 02:00-04:00 UTC", 0, "no month"),
        ("2027-02-30 02:00-04:00 UTC", 0, "no day"),
        ("Feb 3 2027 02:00-04:00 UTC", 6, "hours were expected"),
    ] {
        let mistake = Window::parse(text).unwrap_err();
        assert_eq!(mistake.at, place, "{text}: {mistake}");
        assert!(mistake.why.contains(why), "{text}: {mistake}");
    }
}

#[test]
fn the_canonical_text_is_read_as_the_same_window() {
    for (text, canonical) in [
        (
            "mon-WED,fri  02:00-04:00 europe/berlin",
            "Mon,Tue,Wed,Fri 02:00-04:00 Europe/Berlin",
        ),
        ("* 22:00-06:00 UTC", "daily 22:00-06:00 UTC"),
        ("Sat-Sun 00:00-24:00 UTC", "Sat,Sun 00:00-24:00 UTC"),
        ("dec 24 12:00-24:00 UTC", "Dec 24 12:00-24:00 UTC"),
        ("2027-02-03 12:00-00:00 UTC", "2027-02-03 12:00-24:00 UTC"),
    ] {
        let window = Window::parse(text).unwrap();
        assert_eq!(window.to_string(), canonical);
        assert_eq!(Window::parse(canonical).unwrap(), window);
    }
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
        // A start in the past is at once.
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
        // Released before the opening: from the opening on.
        ("2026-11-25T00:00:00Z", "2026-11-25T02:04:59Z", false),
        ("2026-11-25T00:00:00Z", "2026-11-25T02:05:00Z", true),
        ("2026-11-25T03:00:00Z", "2026-11-25T03:04:59Z", false),
        ("2026-11-25T03:00:00Z", "2026-11-25T03:05:00Z", true),
        // Four minutes are left: its share is two of them.
        ("2026-11-25T03:56:00Z", "2026-11-25T03:57:59Z", false),
        ("2026-11-25T03:56:00Z", "2026-11-25T03:58:00Z", true),
        ("2026-11-25T03:56:00Z", "2026-11-25T04:00:00Z", false),
    ];
    for (released, now, wanted) in table {
        assert_eq!(
            schedule.is_due(at(released), half, Some(at(now))),
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
        assert!(!schedule.is_due(released, Share(0), None), "{schedule:?}");
        assert_eq!(schedule.gate_by(Some(released)), schedule.gate(released));
    }
    let spread = Schedule {
        spread: Duration::from_secs(600),
        ..Schedule::default()
    };
    assert!(spread.gate_by(None).is_open() && !spread.is_due(released, Share(0), None));
    let at_once = Schedule {
        deadline: Some(released),
        ..Schedule::default()
    };
    assert!(at_once.gate_by(None).is_open() && at_once.is_due(released, Share(0), None));
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
        prop_assert!(schedule.is_due(released, Share(share), Some(last)));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[A-Za-z0-9:,ä -]{0,40}") {
        let _ = Window::parse(&text);
    }
}
