//! What somebody may have meant by a name that nobody knows: "did you mean `health`?"

/// The known name that is closest to what was given, if one is close. For names that are refused
/// anyway: a wrong guess does no harm.
#[must_use]
pub fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = plain(given);
    if given.is_empty() {
        return None;
    }
    let by_distance = known.into_iter().filter_map(|name| {
        let wanted = plain(name);
        let limit = (wanted.len().max(given.len()) / 3).max(1);
        // `timeout` for `timeout_seconds`, `healthcheck` for `health`.
        let begins = given.len() >= 4 && wanted.starts_with(&given)
            || wanted.len() >= 4 && given.starts_with(&wanted);
        let distance = match strsim::osa_distance(&given, &wanted) {
            distance if distance <= limit => distance,
            _ if begins => limit,
            _ => return None,
        };
        Some((distance, name))
    });
    by_distance
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A name that is not known, in a file of settings or in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// As it was written.
    pub name: String,
    /// What was probably meant.
    pub meant: Option<String>,
}

/// "`lisen` is no setting; did you mean `listen`?"
impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is no setting", self.name.escape_debug())?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean `{meant}`?"),
            None => Ok(()),
        }
    }
}

/// Every name that is not known. Names may begin with `prefix`, which is left out when they are
/// compared.
#[must_use]
pub fn strangers<'g, 'k>(
    given: impl IntoIterator<Item = &'g str>,
    known: impl IntoIterator<Item = &'k str>,
    prefix: &str,
) -> Vec<Stranger> {
    let known: Vec<&str> = known.into_iter().collect();
    let rest = |name: &'k str| name.strip_prefix(prefix).unwrap_or(name);
    given
        .into_iter()
        .filter(|name| !known.contains(name))
        .map(|name| {
            let given = name.strip_prefix(prefix).unwrap_or(name);
            let meant = closest(given, known.iter().map(|known| rest(known)));
            Stranger {
                name: name.to_owned(),
                meant: meant.map(|meant| format!("{prefix}{meant}")),
            }
        })
        .collect()
}

/// Whether a name is another one mistyped, so surely that it may be refused: the same letters
/// in other case or with other separators, or a slip of the finger in a long enough word.
#[must_use]
pub fn is_slip(given: &str, known: &str) -> bool {
    let (given, known) = (plain(given), plain(known));
    let limit = match known.len() {
        0..=3 => 0,
        4..=8 => 1,
        _ => 2,
    };
    strsim::osa_distance(&given, &known) <= limit
}

/// Whether two names differ in case and separators only.
#[must_use]
pub fn is_same_word(given: &str, known: &str) -> bool {
    plain(given) == plain(known)
}

/// Without case and separators.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' ' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_words() {
        for (given, known) in [
            ("scirpt", "script"),
            ("helth", "health"),
            ("Health", "health"),
            ("timeoutSeconds", "timeout_seconds"),
            ("timeout-secnods", "timeout_seconds"),
            ("ENV", "env"),
        ] {
            assert!(is_slip(given, known), "{given}");
        }
        for (given, known) in [
            ("env", "end"),
            ("description", "version"),
            ("author", "arch"),
            ("entries", "retries"),
            ("build", "rollback"),
            ("wealthy", "health"),
        ] {
            assert!(!is_slip(given, known), "{given}");
        }
    }

    #[test]
    fn the_closest_name_is_meant_and_a_strange_one_means_none() {
        let known = ["listen", "log_format", "metrics_listen", "timeout_seconds"];
        assert_eq!(closest("lisen", known), Some("listen"));
        assert_eq!(closest("log-formt", known), Some("log_format"));
        assert_eq!(closest("timeout", known), Some("timeout_seconds"));
        assert_eq!(closest("colour", known), None);
        assert_eq!(closest("", known), None);
        let said: Vec<_> = strangers(["listen", "lisen", "colour"], known, "")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            said,
            [
                "`lisen` is no setting; did you mean `listen`?",
                "`colour` is no setting"
            ]
        );
        let said = strangers(["KERNEX_FOO", "KERNEX_LGO"], ["KERNEX_LOG"], "KERNEX_");
        assert_eq!(said[0].meant, None);
        assert_eq!(said[1].meant.as_deref(), Some("KERNEX_LOG"));
    }
}
