//! What selectors mean, which are refused and at which place, and that no text makes the parser
//! panic.

use super::*;
use proptest::prelude::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn selectors_mean_what_kubernetes_means() {
    let device = labels(&[
        ("site", "berlin"),
        ("env", "prod"),
        ("gpu", ""),
        ("in", "x"),
        ("notin", "x"),
        ("kernex.io/name", "edge-1"),
    ]);
    for yes in [
        "",
        "*",
        " * ",
        "site=berlin",
        "site == berlin",
        "site=berlin , env in (stage, prod)",
        "env notin (stage,dev)",
        "missing notin (a)",
        "missing!=a",
        "gpu",
        "gpu=",
        "!canary",
        "kernex.io/name=edge-1",
        "kernex.io/name in (edge-1,edge-2),site!=munich",
        "in,notin",
        "site in(berlin)",
        "env in ( prod , )",
        "kernex.io/agent-version!=1.2.3+build/7",
        "!kernex.io/os",
    ] {
        assert!(Selector::parse(yes).unwrap().matches(&device), "{yes}");
    }
    for no in [
        "site=munich",
        "canary",
        "!site",
        "env notin (prod)",
        "env!=prod",
        "site in (a,b)",
        "gpu=x",
    ] {
        assert!(!Selector::parse(no).unwrap().matches(&device), "{no}");
    }
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (text, at) in [
        ("site=berlin,", 12),
        ("site berlin", 5),
        ("=x", 0),
        ("a in b", 5),
        ("a in (b", 7),
        ("a in (b c)", 8),
        ("a=b c", 4),
        ("a ! b", 2),
        ("Bad_/x", 0),
        ("-a", 0),
        ("a,,b", 2),
        ("a>1", 1),
        ("site=berlin,env=a/b", 16),
        ("\u{a0}\u{a0}a=ä", 4),
        ("a=1,kernex.io/colour=red", 4),
        ("kernex.io/os in (linux,mac", 26),
    ] {
        let error = Selector::parse(text).unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
    }
}

#[test]
fn label_keys_and_values_have_limits() {
    for good in ["a", "app.example.com/name", "a_b-c.D9"] {
        assert!(check_key(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "/a",
        "a/",
        "a b",
        "-a",
        "a-",
        &"x".repeat(64),
        "ä",
        "UPPER/x",
    ] {
        assert!(check_key(bad).is_err(), "{bad}");
    }
    assert!(check_value("").is_ok() && check_value("v1.2").is_ok() && check_value("a b").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z=!,() ä*]{0,30}") {
        if let Ok(selector) = Selector::parse(&text) {
            let canonical = selector.to_string();
            prop_assert_eq!(Selector::parse(&canonical), Ok(selector), "{}", canonical);
        }
    }
}
