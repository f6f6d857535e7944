//! Cuts what looks like a secret out of every text of a support bundle. The parts of the bundle
//! leave secrets out themselves; this holds for those that forget, such as an error that repeats an
//! address.

use kernex_proto::connect::proxy::without_credentials;
use serde_json::Value;

/// Stands in place of what may be secret.
pub(super) const LEFT_OUT: &str = "(left out)";

/// Begins of tokens: of enrolment, and of operators in both forms.
const TOKENS: [&str; 3] = ["kxe1.", "kxo1.", "kxo2_"];

/// With fewer letters and digits behind its begin a text is no token.
const LEAST: usize = 4;

/// Cuts secrets at every depth; names of fields stay.
pub(super) fn cut(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(cut),
        Value::Array(items) => items.iter_mut().for_each(cut),
        Value::String(text) => *text = cut_text(text),
        _ => {}
    }
}

/// One text without secrets: keys in PEM form, tokens, what follows `Bearer`, and users with their
/// passwords in URLs.
fn cut_text(text: &str) -> String {
    if text.contains("PRIVATE KEY-----") {
        return LEFT_OUT.to_owned();
    }
    let mut cut = String::with_capacity(text.len());
    let mut after_bearer = false;
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        match after_bearer && !bare.is_empty() {
            true => cut.push_str(LEFT_OUT),
            false => cut.push_str(&cut_word(bare)),
        }
        cut.push_str(&word[bare.len()..]);
        after_bearer = bare.eq_ignore_ascii_case("bearer") || after_bearer && bare.is_empty();
    }
    cut
}

fn cut_word(word: &str) -> String {
    let begins = TOKENS.iter().filter_map(|token| {
        let at = word.find(token)?;
        // A sentence may name the begin of a token alone.
        let rest = word[at + token.len()..].chars();
        (rest.filter(|c| c.is_alphanumeric()).count() >= LEAST).then_some(at)
    });
    if let Some(at) = begins.min() {
        return format!("{}{LEFT_OUT}", &word[..at]);
    }
    // With a scheme or without: `http://ada:secret@h`, `ada:secret@h`.
    match word.rfind('@') {
        Some(at) if word[..at].contains(':') => without_credentials(word),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_cut_wherever_it_stands() {
        for (text, left) in [
            ("no secret: edge-1 at https://h:7443", None),
            ("https://ada:hunter2@h:7443/x", Some("https://h:7443/x")),
            ("`ada:hunter2@h:1` is none", Some("h:1` is none")),
            ("(http://ada:a@hunter2@p:3128)", Some("(http://p:3128)")),
            (
                "token=kxe1.a.b.c.hunter2 is bad",
                Some("token=(left out) is bad"),
            ),
            ("kxo2_hunter2", Some("(left out)")),
            ("it should start with `kxe1.` and", None),
            (
                "Authorization: Bearer  hunter2 x",
                Some("Authorization: Bearer  (left out) x"),
            ),
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n", Some("(left out)")),
        ] {
            assert_eq!(cut_text(text), left.unwrap_or(text));
        }
        let mut value = serde_json::json!({"a": [{"b": "kxo1.hunter2"}], "n": 1});
        cut(&mut value);
        assert_eq!(value, serde_json::json!({"a": [{"b": LEFT_OUT}], "n": 1}));
    }
}
