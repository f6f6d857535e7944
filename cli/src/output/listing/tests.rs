//! How lists are sorted, cut and shown.

use super::*;
use crate::output::{Field, Format};

#[derive(Debug, serde::Serialize)]
struct Thing {
    name: String,
    count: Option<u32>,
    at: String,
}

impl View for Thing {
    const EMPTY: &'static str = "None.";

    fn header(wide: bool) -> Vec<&'static str> {
        if wide {
            vec!["NAME", "COUNT", "LAST SEEN"]
        } else {
            vec!["NAME", "COUNT"]
        }
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let count = self
            .count
            .map_or_else(String::new, |count| count.to_string());
        let mut row = vec![Field::plain(&self.name), Field::plain(count)];
        if wide {
            row.push(Field::plain(&self.at));
        }
        row
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn things() -> Vec<Thing> {
    let thing = |name: &str, count, at: &str| Thing {
        name: name.into(),
        count,
        at: at.into(),
    };
    vec![
        thing("edge-10", Some(9), "2026-01-01T00:00:00.5Z"),
        thing("edge-2", None, "2026-01-01T00:00:00Z"),
        thing("Edge-2", Some(10), "2026-01-02T00:00:00Z"),
    ]
}

fn listing(args: ListArgs) -> Listing {
    Listing {
        args,
        printer: Printer::plain(Format::Table),
        usual: None,
        is_narrowed: false,
        is_by_name: false,
    }
}

fn names(args: ListArgs) -> Vec<String> {
    let (items, _) = listing(args).chosen(things(), None).unwrap();
    items.iter().map(View::name).collect()
}

#[test]
fn a_list_is_sorted_by_a_field_of_its_json() {
    let by = |field: &str| {
        names(ListArgs {
            sort: Some(field.into()),
            ..ListArgs::default()
        })
    };
    assert_eq!(by("name"), ["Edge-2", "edge-2", "edge-10"]);
    assert_eq!(by("-name"), ["edge-10", "edge-2", "Edge-2"]);
    assert_eq!(by("count"), ["edge-10", "Edge-2", "edge-2"]);
    assert_eq!(by("-count"), ["Edge-2", "edge-10", "edge-2"]);
    assert_eq!(by("at"), ["edge-2", "edge-10", "Edge-2"]);
    let wrong = sorted(things(), "size").unwrap_err();
    assert!(wrong.next.contains("count"), "{wrong}");
}

#[test]
fn what_is_cut_is_counted() {
    let cut = listing(ListArgs {
        limit: Some(2),
        ..ListArgs::default()
    });
    let (items, all) = cut.chosen(things(), Some(30_000)).unwrap();
    assert_eq!((items.len(), all), (2, 30_000));
    assert_eq!(
        left_out(2, all, "device").unwrap(),
        "29998 more devices; `--limit 0` prints all."
    );
    assert_eq!(left_out(2, 2, "device"), None);
    assert_eq!(cut.fetched(), Some(2));
    let sorts = listing(ListArgs {
        limit: Some(1),
        sort: Some("name".into()),
        ..ListArgs::default()
    });
    assert_eq!(sorts.fetched(), None, "the first by name may come last");
    let (items, all) = sorts.chosen(things(), Some(3)).unwrap();
    assert_eq!((items.len(), all), (1, 3));
    let all = listing(ListArgs {
        limit: Some(0),
        ..ListArgs::default()
    });
    assert_eq!(all.usually(1).fetched(), None);
}

#[test]
fn a_filter_that_nothing_matches_is_not_an_empty_fleet() {
    let all = listing(ListArgs::default());
    assert_eq!(all.nothing::<Thing>("thing"), "None.");
    assert_eq!(
        all.narrowed(true).nothing::<Thing>("thing"),
        "No thing matches. Without a filter all are listed."
    );
}

#[test]
fn a_sort_that_reads_a_long_list_says_so() {
    let sorts = listing(ListArgs {
        sort: Some("name".into()),
        ..ListArgs::default()
    });
    assert_eq!(
        sorts.note_on_sorting(30_000, 20, "device").unwrap(),
        "All 30000 devices were read to sort them by name; a filter makes that shorter."
    );
    assert_eq!(sorts.note_on_sorting(900, 20, "device"), None, "soon read");
    let all = sorts.note_on_sorting(30_000, 30_000, "device");
    assert_eq!(all, None, "all were asked for");
    let plain = listing(ListArgs::default());
    assert_eq!(plain.note_on_sorting(30_000, 20, "device"), None);
}

#[test]
fn columns_are_chosen_by_their_titles_and_titles_can_be_left_out() {
    let show = |columns: &[&str], no_headers| {
        let args = ListArgs {
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            no_headers,
            ..ListArgs::default()
        };
        listing(args).render(&things(), Time::at(0))
    };
    assert_eq!(
        show(&["last-seen", "name"], false).unwrap().lines().next(),
        Some("LAST SEEN               NAME")
    );
    assert_eq!(
        show(&[], true).unwrap(),
        "edge-10  9\nedge-2   -\nEdge-2   10\n"
    );
    let wrong = show(&["colour"], false).unwrap_err();
    assert!(wrong.next.contains("last-seen"), "{wrong}");
}
