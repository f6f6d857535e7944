//! The devices of a watch in a pipe beyond those whose changes are printed one by one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kernex_proto::v1;

use crate::output::target::{first_by_name, is_closed};

/// So few that are not done are named.
const FEW_LEFT: usize = 3;

/// Time between two counts of the others.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// Devices beyond those whose changes are printed one by one. Only their counts are printed.
#[derive(Default)]
pub(super) struct Others {
    /// Whether there are any.
    pub(super) exist: bool,
    /// Failures among them that were printed all the same.
    pub(super) failures: usize,
    /// The counts that were printed last, and when.
    told: Option<(String, Instant)>,
    /// The last ones that were not done, as they were named.
    last: Vec<String>,
}

impl Others {
    /// The counts, when they are due to be printed.
    pub(super) fn news(&mut self, counts: String, finished: bool) -> Option<String> {
        let due = self.told.as_ref().is_none_or(|(said, at)| {
            *said != counts && (finished || at.elapsed() >= COUNTED_EVERY)
        });
        if !self.exist || !due {
            return None;
        }
        self.told = Some((counts.clone(), Instant::now()));
        Some(counts)
    }

    /// Who is not done, once only a few are left; none when they were named before.
    pub(super) fn last_ones(&mut self, targets: &BTreeMap<String, v1::Target>) -> Option<String> {
        if !self.exist {
            return None;
        }
        let open = targets.values().filter(|target| !is_closed(target.state()));
        let open: Vec<&v1::Target> = open.take(FEW_LEFT + 1).collect();
        if open.len() > FEW_LEFT {
            self.last.clear();
            return None;
        }
        let mut names: Vec<String> = open.iter().map(|it| it.device_name.clone()).collect();
        names.sort();
        let is_news = !names.is_empty() && names.iter().any(|name| !self.last.contains(name));
        self.last = names;
        is_news.then(|| format!("waiting for {}", first_by_name(open.into_iter())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_devices_are_named_once() {
        let targets = |open: &[&str]| -> BTreeMap<String, v1::Target> {
            let names = (0..20).map(|number| format!("edge-{number}"));
            let target = |name: String| {
                let is_open = open.contains(&name.as_str());
                let state = match is_open {
                    true => v1::AttemptState::Pending,
                    false => v1::AttemptState::Succeeded,
                };
                let target = v1::Target {
                    device_name: name.clone(),
                    state: state.into(),
                    ..Default::default()
                };
                (name, target)
            };
            names.map(target).collect()
        };
        let mut others = Others::default();
        let two = targets(&["edge-3", "edge-17"]);
        assert_eq!(others.last_ones(&two), None, "all are told one by one");
        others.exist = true;
        let many = targets(&["edge-1", "edge-2", "edge-3", "edge-17"]);
        assert_eq!(others.last_ones(&many), None);
        let said = others.last_ones(&two).unwrap();
        assert!(
            said.contains("edge-17 (") && said.contains("edge-3 ("),
            "{said}"
        );
        assert_eq!(others.last_ones(&two), None, "once");
        assert_eq!(others.last_ones(&targets(&["edge-17"])), None);
        assert_eq!(others.last_ones(&targets(&[])), None);
    }
}
