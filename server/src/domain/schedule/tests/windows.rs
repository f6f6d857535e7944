//! Tables of when windows are open: touching, skipped and doubled hours, and texts that say
//! nothing.

use super::*;

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
        let error = Window::parse(text).unwrap_err();
        assert_eq!(error.at, place, "{text}: {error}");
        assert!(error.why.contains(why), "{text}: {error}");
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
