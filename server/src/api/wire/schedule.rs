//! When the targets of a deployment may begin, and which devices may join it later.

use std::time::Duration;

use kernex_proto::{ids::check_name, v1};
use tonic::Status;

use crate::{
    clock::Timestamp,
    domain::{
        schedule::{Schedule, Window},
        selector::Selector,
    },
    error::{invalid, unreadable},
    store::Terms,
};

/// Longest deadline after the start.
const LONGEST: u64 = 10 * 366 * 24 * 3600;

/// Reads the terms of a deployment. The store, which knows the time, checks whether anything can
/// begin under them.
pub(super) fn terms(
    request: &v1::CreateDeploymentRequest,
    selector: Option<&Selector>,
    penalty_after: u32,
) -> Result<Terms, Status> {
    let wire = request.schedule.clone().unwrap_or_default();
    let windows = wire.windows.iter().enumerate().map(|(index, text)| {
        Window::parse(text)
            .map_err(|wrong| unreadable(&format!("schedule.windows[{index}]"), &wrong))
    });
    if wire.deadline.is_some() && wire.deadline_seconds > 0 {
        let why = "give an instant or a number of seconds, not both";
        return Err(invalid("schedule.deadline_seconds", why));
    }
    if wire.deadline_seconds > LONGEST {
        let why = "it has to be at most ten years";
        return Err(invalid("schedule.deadline_seconds", why));
    }
    let dynamic = match (request.dynamic, selector) {
        (false, _) => None,
        (true, Some(selector)) => Some(selector.clone()),
        (true, None) => {
            let why = "devices that come to match later need a selector to match";
            return Err(invalid("dynamic", why));
        }
    };
    Ok(Terms {
        name: name(&request.name)?,
        schedule: Schedule {
            start: instant("schedule.start_at", wire.start_at.as_ref())?,
            windows: windows.collect::<Result<_, _>>()?,
            spread: Duration::from_secs(wire.spread_seconds),
            deadline: instant("schedule.deadline", wire.deadline.as_ref())?,
        },
        deadline_after: (wire.deadline_seconds > 0)
            .then(|| Duration::from_secs(wire.deadline_seconds)),
        dynamic,
        penalty_after,
    })
}

/// A name that does not look like the beginning of an id.
fn name(text: &str) -> Result<String, Status> {
    let is_id = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    if text.is_empty() {
        return Ok(String::new());
    }
    check_name("deployment name", text).map_err(|error| invalid("name", error.to_string()))?;
    if text.bytes().all(is_id) {
        let why = "it looks like an id: use a letter after f, a dot or an underscore";
        return Err(invalid("name", why));
    }
    Ok(text.to_owned())
}

fn instant(
    field: &str,
    wire: Option<&prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Status> {
    let read = |wire| {
        Timestamp::from_proto(wire)
            .ok_or_else(|| invalid(field, "it is no instant of any calendar"))
    };
    wire.map(read).transpose()
}

impl From<Schedule> for v1::Schedule {
    fn from(schedule: Schedule) -> Self {
        Self {
            start_at: schedule.start.map(Timestamp::to_proto),
            windows: schedule.windows.iter().map(ToString::to_string).collect(),
            spread_seconds: schedule.spread.as_secs(),
            deadline: schedule.deadline.map(Timestamp::to_proto),
            deadline_seconds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let request = |schedule: v1::Schedule, dynamic| v1::CreateDeploymentRequest {
            schedule: Some(schedule),
            dynamic,
            ..Default::default()
        };
        let never = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        let windows = |texts: &[&str]| v1::Schedule {
            windows: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..Default::default()
        };
        let night = "daily 02:00-04:00 UTC";
        let table = [
            (
                request(windows(&[night, "Feb 30 02:00-04:00 UTC"]), false),
                "schedule.windows[1]",
            ),
            (request(windows(&[night]), true), "dynamic"),
            (
                request(
                    v1::Schedule {
                        start_at: Some(never),
                        ..Default::default()
                    },
                    false,
                ),
                "schedule.start_at",
            ),
            (
                request(
                    v1::Schedule {
                        deadline: Some(never),
                        ..Default::default()
                    },
                    false,
                ),
                "schedule.deadline",
            ),
            (
                request(
                    v1::Schedule {
                        deadline_seconds: u64::MAX,
                        ..Default::default()
                    },
                    false,
                ),
                "schedule.deadline_seconds",
            ),
            (
                request(
                    v1::Schedule {
                        deadline: Some(prost_types::Timestamp::default()),
                        deadline_seconds: 1,
                        ..Default::default()
                    },
                    false,
                ),
                "schedule.deadline_seconds",
            ),
        ];
        for (request, field) in table {
            let status = terms(&request, None, 3).unwrap_err();
            assert!(
                status.message().starts_with(&format!("{field}: ")),
                "{field}: {status}"
            );
        }
    }

    #[test]
    fn an_order_without_a_schedule_delays_nothing() {
        let terms = terms(&v1::CreateDeploymentRequest::default(), None, 3).unwrap();
        assert_eq!(terms.schedule, Schedule::default());
        assert_eq!((terms.dynamic, terms.penalty_after), (None, 3));
    }
}
