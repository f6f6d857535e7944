//! What agents could not remove, as the heartbeat row keeps it.

use kernex_proto::v1;
use serde::{Deserialize, Serialize};

use crate::store::db::values::clean;

/// Most leftovers that are kept by name; an agent sends no more.
const NAMED: usize = 16;

#[derive(Serialize, Deserialize)]
struct Kept {
    count: u32,
    /// Path and reason.
    named: Vec<(String, String)>,
}

/// The text of a row; none when nothing is left.
pub(crate) fn to_text(leftovers: &v1::Leftovers) -> Option<String> {
    let named: Vec<_> = leftovers
        .named
        .iter()
        .take(NAMED)
        .map(|left| (clean(&left.path), clean(&left.reason)))
        .collect();
    let kept = Kept {
        count: leftovers
            .count
            .max(u32::try_from(named.len()).unwrap_or(u32::MAX)),
        named,
    };
    (kept.count > 0)
        .then(|| serde_json::to_string(&kept).ok())
        .flatten()
}

/// What a row says. A text that cannot be read counts as none.
pub(crate) fn from_text(text: &str) -> Option<v1::Leftovers> {
    let kept: Kept = serde_json::from_str(text).ok()?;
    let named = kept.named.into_iter();
    Some(v1::Leftovers {
        count: kept.count,
        named: named
            .map(|(path, reason)| v1::Leftover { path, reason })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(count: u32, named: usize, text: &str) -> v1::Leftovers {
        let one = v1::Leftover {
            path: text.to_owned(),
            reason: text.to_owned(),
        };
        v1::Leftovers {
            count,
            named: vec![one; named],
        }
    }

    #[test]
    fn what_an_agent_says_is_kept_within_bounds() {
        let kept = |said| to_text(&said).and_then(|text| from_text(&text));
        assert_eq!(
            kept(left(2, 2, "it's \"there\"")),
            Some(left(2, 2, "it's \"there\""))
        );
        assert_eq!(kept(left(9, 1, "a")), Some(left(9, 1, "a")));
        assert_eq!(kept(left(0, 0, "")), None);
        // From an agent that lies or is broken.
        assert_eq!(kept(left(0, 3, "a\0b")), Some(left(3, 3, "ab")));
        let much = kept(left(u32::MAX, 1000, &"x".repeat(100_000))).unwrap();
        assert_eq!((much.count, much.named.len()), (u32::MAX, NAMED));
        assert!(much.named[0].path.len() <= 1024);
        assert_eq!(from_text("{"), None);
    }
}
