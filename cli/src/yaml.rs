//! YAML, read and written. What is read may come from anybody: aliases, depth and length have
//! limits far above what a rollout needs, and an error says the line and the column.

use std::error::Error;

use serde::{Serialize, de::DeserializeOwned};

/// Nested maps and lists.
const MAX_DEPTH: usize = 16;
/// Scalars, and beginnings and ends of maps and lists; those that aliases repeat count again.
const MAX_EVENTS: usize = 100_000;

/// Reads one document. JSON is YAML as well.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, impl Error + use<T>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_events: MAX_EVENTS,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_EVENTS,
        },
        // `yes` is a word, and `010` and `1_000` are what the type that is read makes of them.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        // The message is part of a sentence.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

/// Writes one document. Long lines stay whole, so that what is found by `grep` is all there.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Result<String, impl Error + use<T>> {
    let options = serde_saphyr::ser_options! {
        folded_wrap_chars: usize::MAX,
        // Without quotes around what only YAML 1.1 took for something else, times among it.
        yaml_12: true,
        no_lang_directive: true,
    };
    serde_saphyr::to_string_with_options(&value, options)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn refused(text: &str) -> String {
        read::<Value>(text).unwrap_err().to_string()
    }

    #[test]
    fn an_error_says_where() {
        let error = read::<BTreeMap<String, u8>>("one: 1\ntwo: many\n").unwrap_err();
        assert!(error.to_string().contains("line 2, column 6"), "{error}");
        let error = refused("one: 1\ntwo: [2\n");
        assert!(error.contains("line 2, column 6"), "{error}");
    }

    #[test]
    fn what_would_grow_without_end_is_refused() {
        // Nine of nine of nine: a kilobyte that means four hundred million.
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (inner, outer) in "abcdefgh".chars().zip("bcdefghi".chars()) {
            let nine = [format!("*{inner}").as_str(); 9].join(", ");
            bomb += &format!("{outer}: &{outer} [{nine}]\n");
        }
        let deep_flow = "[".repeat(100_000) + &"]".repeat(100_000);
        let deep_block: String = (0..1000)
            .map(|depth| format!("{:depth$}a:\n", ""))
            .collect();
        let itself = "a: &a [1, *a]\n".to_owned();
        let long = "- x\n".repeat(MAX_EVENTS);
        let two = "a: 1\n---\na: 2\n".to_owned();
        for (name, text) in [
            ("aliases", bomb),
            ("flow", deep_flow),
            ("block", deep_block),
            ("an alias of what it is in", itself),
            ("length", long),
            ("two documents", two),
        ] {
            let error = refused(&text);
            assert!(error.len() < 300, "{name}: {error}");
        }
    }

    #[test]
    fn what_was_written_reads_the_same() {
        let words = [
            "yes",
            "null",
            "~",
            "1.5",
            "0x1f",
            "",
            "- x",
            "a: b",
            "a #b",
            "two\nlines\n",
            "é 🎉",
            " lead",
            "\t",
            "2027-02-03T04:05:00Z",
            "*",
            "&a",
            "!x",
            "@",
            "`",
            "{x}",
            "\u{7}",
        ];
        let value = json!({
            "words": words,
            "long": "long ".repeat(100),
            "none": null,
            "empty": { "list": [], "map": {} },
            "inner": [{ "a": 1, "b": [true, -1.5] }],
        });
        let text = write(&value).unwrap();
        assert_eq!(read::<Value>(&text).unwrap(), value, "{text}");
        for line in [
            "inner:\n- a: 1\n",
            "- 2027-02-03T04:05:00Z\n",
            "none: null\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
