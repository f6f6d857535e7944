//! Whether a device still runs what its last outcome said.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;

/// A release, with what drift compares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Running {
    /// As the device or the outcome says.
    pub version: String,
    /// SHA-256 of the bundle; empty when the device cannot tell.
    pub digest: String,
}

/// A device runs something else under a bundle name than its last outcome said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What the last outcome said; `None` when none said that anything runs.
    pub expected: Option<Running>,
    /// What the device says that it runs; `None` for nothing.
    pub actual: Option<Running>,
    /// When they differed for the first time.
    pub since: Timestamp,
}

/// What is known about a device when a heartbeat is judged, by bundle name.
#[derive(Debug, Clone, Default)]
pub struct KnownReleases {
    /// What runs, as its outcomes said.
    pub expected: BTreeMap<String, Running>,
    /// Names with an attempt that may be running. Its outcome will say what runs.
    pub in_flux: BTreeSet<String>,
    /// Drifts that are known already.
    pub drifts: BTreeMap<String, Drift>,
}

impl KnownReleases {
    /// The drifts after a device has reported what it runs. A name in flux keeps its drift:
    /// heartbeats and outcomes may overtake each other, and only the outcome is right.
    #[must_use]
    pub fn judge(
        &self,
        said: &BTreeMap<String, Running>,
        now: Timestamp,
    ) -> BTreeMap<String, Drift> {
        let names: BTreeSet<&String> = self
            .expected
            .keys()
            .chain(said.keys())
            .chain(self.drifts.keys())
            .collect();
        let mut drifts = BTreeMap::new();
        for name in names {
            let before = self.drifts.get(name);
            let drift = if self.in_flux.contains(name) {
                before.cloned()
            } else {
                let (expected, actual) = (self.expected.get(name), said.get(name));
                (!is_same(expected, actual)).then(|| Drift {
                    expected: expected.cloned(),
                    actual: actual.cloned(),
                    since: before.map_or(now, |before| before.since),
                })
            };
            drifts.extend(drift.map(|drift| (name.clone(), drift)));
        }
        drifts
    }
}

/// Releases with the same bytes are the same, whatever their versions.
fn is_same(expected: Option<&Running>, actual: Option<&Running>) -> bool {
    expected.map(|release| &release.digest) == actual.map(|release| &release.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(names: &[(&str, &str)]) -> BTreeMap<String, Running> {
        names
            .iter()
            .map(|(name, digest)| {
                let running = Running {
                    version: (*digest).to_owned(),
                    digest: (*digest).to_owned(),
                };
                ((*name).to_owned(), running)
            })
            .collect()
    }

    #[test]
    fn a_device_drifts_where_it_differs_from_its_last_outcome() {
        let known = KnownReleases {
            expected: runs(&[("app", "1"), ("db", "5")]),
            ..KnownReleases::default()
        };
        type Said<'a> = &'a [(&'a str, &'a str)];
        let table: &[(Said<'_>, &[&str])] = &[
            (&[("app", "1"), ("db", "5")], &[]),
            (&[("app", "2"), ("db", "5")], &["app"]),
            (&[("db", "5")], &["app"]),
            (&[("app", "1"), ("db", "5"), ("extra", "9")], &["extra"]),
            (&[], &["app", "db"]),
        ];
        for (said, expected) in table {
            let drifts = known.judge(&runs(said), Timestamp(7));
            let names: Vec<&str> = drifts.keys().map(String::as_str).collect();
            assert_eq!(names, *expected, "{said:?}");
        }
    }

    #[test]
    fn it_drifts_since_the_first_difference_and_settles_when_it_matches() {
        let mut known = KnownReleases {
            expected: runs(&[("app", "1")]),
            ..KnownReleases::default()
        };
        known.drifts = known.judge(&runs(&[("app", "2")]), Timestamp(7));
        known.drifts = known.judge(&runs(&[("app", "3")]), Timestamp(9));
        let drift = &known.drifts["app"];
        assert_eq!(drift.since, Timestamp(7));
        assert_eq!(
            drift.actual.as_ref().map(|now| now.digest.as_str()),
            Some("3")
        );
        assert!(
            known
                .judge(&runs(&[("app", "1")]), Timestamp(11))
                .is_empty()
        );
    }

    #[test]
    fn what_an_attempt_is_at_work_on_is_not_judged() {
        let mut known = KnownReleases {
            expected: runs(&[("app", "1")]),
            in_flux: BTreeSet::from(["app".to_owned()]),
            ..KnownReleases::default()
        };
        assert!(known.judge(&runs(&[("app", "2")]), Timestamp(7)).is_empty());
        known.in_flux.clear();
        known.drifts = known.judge(&runs(&[("app", "2")]), Timestamp(8));
        known.in_flux.insert("app".to_owned());
        assert_eq!(
            known.judge(&runs(&[("app", "1")]), Timestamp(9)),
            known.drifts
        );
    }

    proptest! {
        #[test]
        fn judging_twice_changes_nothing(
            expected in proptest::collection::btree_map("[a-c]", "[1-3]", 0..3),
            said in proptest::collection::btree_map("[a-c]", "[1-3]", 0..3),
            flux in proptest::collection::btree_set("[a-c]", 0..2),
        ) {
            let running = |map: BTreeMap<String, String>| -> BTreeMap<String, Running> {
                map.into_iter().map(|(name, digest)| (name, Running { version: String::new(), digest })).collect()
            };
            let (expected, said) = (running(expected), running(said));
            let mut known = KnownReleases { expected, in_flux: flux, ..KnownReleases::default() };
            known.drifts = known.judge(&said, Timestamp(1));
            prop_assert_eq!(&known.judge(&said, Timestamp(2)), &known.drifts);
            prop_assert!(known.drifts.keys().all(|name| !known.in_flux.contains(name)));
        }
    }
}
