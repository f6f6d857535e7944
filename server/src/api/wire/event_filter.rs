//! Which events a watcher wants. Of each kind of filter one has to fit, and of several all.

use std::collections::BTreeSet;

use kernex_proto::{
    event_kinds::{ALL, exists, is_of},
    ids::{DeploymentId, DeviceId},
    v1::WatchEventsRequest,
};
use tonic::Status;

use super::{fields::id, filter::few};
use crate::{
    api::feed::Start,
    clock::Timestamp,
    error::invalid,
    store::{EventRow, View},
};

/// The events that a watcher wants. An empty field lets every event through.
#[derive(Debug, Default)]
pub(in crate::api) struct EventFilter {
    kinds: Vec<String>,
    devices: BTreeSet<DeviceId>,
    deployments: BTreeSet<DeploymentId>,
    since: Option<Timestamp>,
}

impl EventFilter {
    /// Checks a request, and finds the devices that it names.
    pub(in crate::api) async fn read(
        view: &View,
        request: WatchEventsRequest,
    ) -> Result<(Self, Start), Status> {
        let (since, start) = start(&request)?;
        let mut filter = Self {
            kinds: kinds(request.kinds)?,
            devices: BTreeSet::new(),
            deployments: BTreeSet::new(),
            since,
        };
        for deployment in few("deployment_ids", request.deployment_ids)? {
            let deployment = id("deployment_ids", &deployment)?;
            filter.deployments.insert(deployment);
        }
        for device in few("devices", request.devices)? {
            // Events of a device outlive it.
            let device = match device.parse() {
                Ok(id) => id,
                Err(_) => view.device_id(&device).await?,
            };
            filter.devices.insert(device);
        }
        Ok((filter, start))
    }

    pub(in crate::api) fn wants(&self, event: &EventRow) -> bool {
        let is_about =
            |device: &Option<DeviceId>| device.is_some_and(|device| self.devices.contains(&device));
        let is_of_one = |deployment: &Option<DeploymentId>| {
            deployment.is_some_and(|deployment| self.deployments.contains(&deployment))
        };
        (self.kinds.is_empty() || self.kinds.iter().any(|wanted| is_of(&event.kind, wanted)))
            && (self.devices.is_empty() || is_about(&event.device))
            && (self.deployments.is_empty() || is_of_one(&event.deployment))
            && self.since.is_none_or(|since| event.at >= since)
    }
}

fn start(request: &WatchEventsRequest) -> Result<(Option<Timestamp>, Start), Status> {
    let Some(since) = &request.since else {
        let start = if request.from_now {
            Start::Now
        } else {
            Start::After(request.after)
        };
        return Ok((None, start));
    };
    if request.from_now || request.after > 0 {
        return Err(invalid(
            "since",
            "it says where to begin, as `after` and `from_now` do; send one of them",
        ));
    }
    let since = Timestamp::from_proto(since)
        .ok_or_else(|| invalid("since", "it is out of every calendar"))?;
    Ok((Some(since), Start::Since(since)))
}

/// Each kind has to exist, or the watcher would wait for ever.
fn kinds(kinds: Vec<String>) -> Result<Vec<String>, Status> {
    let kinds = few("kinds", kinds)?;
    match kinds.iter().find(|kind| !exists(kind)) {
        None => Ok(kinds),
        Some(unknown) => {
            let unknown: String = unknown.chars().take(80).collect();
            Err(invalid(
                "kinds",
                format!(
                    "there are no events `{unknown}`; there are {}",
                    ALL.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn a_kind_that_does_not_exist_is_refused_with_those_that_do() {
        assert_eq!(kinds(Vec::new()).unwrap(), Vec::<String>::new());
        assert!(kinds(vec!["device".into(), "attempt.failed".into()]).is_ok());
        let status = kinds(vec!["nope".into()]).unwrap_err();
        assert!(status.message().contains("device.drifted"), "{status}");
        for wrong in ["", "device.", "devic", "device.online.x"] {
            assert!(kinds(vec![wrong.into()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn where_a_watch_begins_is_said_in_one_way() {
        let since = Some(Timestamp(1_000_000).to_proto());
        let at = |after, from_now, since| {
            start(&WatchEventsRequest {
                after,
                from_now,
                since,
                ..WatchEventsRequest::default()
            })
            .map(|(_, start)| start)
        };
        assert_eq!(at(7, false, None).unwrap(), Start::After(7));
        assert_eq!(at(7, true, None).unwrap(), Start::Now);
        let begun = at(0, false, since).unwrap();
        assert_eq!(begun, Start::Since(Timestamp(1_000_000)));
        assert!(at(7, false, since).is_err() && at(0, true, since).is_err());
    }

    #[test]
    fn of_several_filters_all_have_to_fit() {
        let (device, deployment) = (DeviceId::generate(), DeploymentId::generate());
        let event = |kind: &str, device, deployment, at| EventRow {
            cursor: 1,
            at: Timestamp(at),
            kind: kind.into(),
            device,
            deployment,
            device_name: None,
            deployment_name: None,
            bundle: None,
            detail_json: "{}".into(),
        };
        let ended = event("attempt.failed", Some(device), Some(deployment), 5);
        let online = event("device.online", Some(device), None, 5);
        let other = event("device.online", Some(DeviceId::generate()), None, 5);
        let uploaded = event("bundle.uploaded", None, None, 5);
        let all = [&ended, &online, &other, &uploaded];
        let passed = |filter: EventFilter| all.map(|event| filter.wants(event));
        let nothing = EventFilter::default;
        assert_eq!(passed(nothing()), [true; 4]);
        let of_device = || EventFilter {
            devices: BTreeSet::from([device]),
            ..nothing()
        };
        assert_eq!(passed(of_device()), [true, true, false, false]);
        let of_both = EventFilter {
            deployments: BTreeSet::from([deployment]),
            ..of_device()
        };
        assert_eq!(passed(of_both), [true, false, false, false]);
        let of_kind = EventFilter {
            kinds: vec!["device".into()],
            ..of_device()
        };
        assert_eq!(passed(of_kind), [false, true, false, false]);
        let later = EventFilter {
            since: Some(Timestamp(6)),
            ..nothing()
        };
        assert_eq!(passed(later), [false; 4]);
    }

    /// The kinds that the code logs, read from its source.
    fn logged(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let code = fs::read_to_string(&path).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            for text in code.split('"').skip(1).step_by(2) {
                let kind = text.split_once('.').is_some_and(|(subject, verb)| {
                    ["attempt", "bundle", "configuration", "deployment", "device"]
                        .contains(&subject)
                        && !verb.is_empty()
                        && verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                });
                if kind {
                    found.insert(text.to_owned());
                }
            }
        }
    }

    #[test]
    fn every_kind_that_is_logged_is_listed() {
        let mut found = BTreeSet::new();
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/write");
        logged(&store, &mut found);
        assert!(found.len() > 10, "{found:?}");
        let unlisted: Vec<_> = found
            .iter()
            .filter(|kind| !ALL.contains(&kind.as_str()))
            .collect();
        assert_eq!(unlisted, Vec::<&String>::new());
    }
}
