//! Filters of lists. An unknown word is refused, because it would otherwise mean "any".

use std::time::Duration;

use kernex_proto::v1;
use tonic::Status;

use super::{fields::seconds, selector::any_selector};
use crate::{
    clock::Timestamp,
    domain::{bundle_reference::BundleReference, pattern::Pattern},
    error::invalid,
    store::{DeploymentFilter, DeviceFilter, IdPrefix, TargetFilter},
};

/// Longest text of a filter.
const LONGEST: usize = 256;
/// Most values of one field.
const MOST: usize = 100;

/// Which devices a list has.
pub(in crate::api) fn device_filter(
    selector: &str,
    wire: Option<v1::DeviceFilter>,
) -> Result<DeviceFilter, Status> {
    let selector = any_selector("selector", selector)?;
    let wire = wire.unwrap_or_default();
    Ok(DeviceFilter {
        selector,
        statuses: words::<v1::DeviceStatus, _>("filter.statuses", &wire.statuses)?,
        agent_versions: few("filter.agent_versions", wire.agent_versions)?,
        runs: reference("filter.runs", &wire.runs)?,
        drifted: wire.drifted,
        seen_within: age("filter.seen_within_seconds", wire.seen_within_seconds)?,
        unseen_for: age("filter.unseen_for_seconds", wire.unseen_for_seconds)?,
        name: pattern("filter.name", &wire.name)?,
    })
}

/// Which deployments a list has.
pub(in crate::api) fn deployment_filter(
    wire: Option<v1::DeploymentFilter>,
) -> Result<DeploymentFilter, Status> {
    let wire = wire.unwrap_or_default();
    let since = wire.since.as_ref().map(|since| {
        Timestamp::from_proto(since)
            .ok_or_else(|| invalid("filter.since", "it is out of every calendar"))
    });
    let id = (!wire.id_prefix.is_empty())
        .then(|| IdPrefix::parse(&wire.id_prefix).map_err(|why| invalid("filter.id_prefix", why)));
    Ok(DeploymentFilter {
        states: words::<v1::DeploymentState, _>("filter.states", &wire.states)?,
        results: words::<v1::DeploymentResult, _>("filter.results", &wire.results)?,
        bundle: reference("filter.bundle", &wire.bundle)?,
        created_by: text("filter.created_by", &wire.created_by)?.map(str::to_owned),
        since: since.transpose()?,
        id: id.transpose()?,
        name: text("filter.name", &wire.name)?.map(str::to_owned),
    })
}

/// Which targets a list has.
pub(in crate::api) fn target_filter(
    wire: Option<v1::TargetFilter>,
) -> Result<TargetFilter, Status> {
    let wire = wire.unwrap_or_default();
    Ok(TargetFilter {
        states: words::<v1::AttemptState, _>("filter.states", &wire.states)?,
        reasons: words::<v1::FailureReason, _>("filter.reasons", &wire.reasons)?,
        phase: (wire.phase > 0).then_some(wire.phase),
        device_name: pattern("filter.device_name", &wire.device_name)?,
    })
}

/// Values of an enum, as numbers on the wire.
fn words<W, T>(field: &str, numbers: &[i32]) -> Result<Vec<T>, Status>
where
    W: TryFrom<i32> + TryInto<T>,
{
    if numbers.len() > MOST {
        return Err(invalid(field, format!("at most {MOST} values are allowed")));
    }
    let known = |number: &i32| {
        let word = W::try_from(*number)
            .ok()
            .and_then(|wire| wire.try_into().ok());
        word.ok_or_else(|| invalid(field, format!("{number} is none of its values")))
    };
    numbers.iter().map(known).collect()
}

/// A few short texts.
pub(super) fn few(field: &str, values: Vec<String>) -> Result<Vec<String>, Status> {
    if values.len() > MOST || values.iter().any(|value| value.len() > LONGEST) {
        return Err(invalid(
            field,
            format!("at most {MOST} values of {LONGEST} bytes are allowed"),
        ));
    }
    Ok(values)
}

fn text<'a>(field: &str, text: &'a str) -> Result<Option<&'a str>, Status> {
    if text.len() > LONGEST {
        return Err(invalid(field, format!("it is longer than {LONGEST} bytes")));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn reference(field: &str, value: &str) -> Result<Option<BundleReference>, Status> {
    Ok(text(field, value)?.map(BundleReference::parse))
}

fn pattern(field: &str, value: &str) -> Result<Option<Pattern>, Status> {
    Ok(text(field, value)?.map(Pattern::new))
}

fn age(field: &str, value: u64) -> Result<Option<Duration>, Status> {
    (value > 0)
        .then(|| seconds(field, value, Duration::ZERO))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::device::DeviceStatus;

    #[test]
    fn an_unknown_word_is_refused_and_not_taken_for_any() {
        let with = |statuses: &[i32]| {
            let statuses = statuses.to_vec();
            device_filter(
                "",
                Some(v1::DeviceFilter {
                    statuses,
                    ..Default::default()
                }),
            )
        };
        let both = [
            v1::DeviceStatus::Online.into(),
            v1::DeviceStatus::Offline.into(),
        ];
        assert_eq!(
            with(&both).unwrap().statuses,
            [DeviceStatus::Online, DeviceStatus::Offline]
        );
        for wrong in [0, 99, -1] {
            let status = with(&[wrong]).unwrap_err();
            assert!(status.message().starts_with("filter.statuses"), "{status}");
        }
        assert!(with(&[1; MOST + 1]).is_err());
        assert_eq!(device_filter("", None).unwrap(), DeviceFilter::default());
    }

    #[test]
    fn every_field_of_a_filter_is_limited() {
        let long = "x".repeat(LONGEST + 1);
        let device = |filter| device_filter("", Some(filter)).is_err();
        assert!(device(v1::DeviceFilter {
            name: long.clone(),
            ..Default::default()
        }));
        assert!(device(v1::DeviceFilter {
            runs: long.clone(),
            ..Default::default()
        }));
        assert!(device(v1::DeviceFilter {
            agent_versions: vec![long.clone()],
            ..Default::default()
        }));
        assert!(device(v1::DeviceFilter {
            unseen_for_seconds: u64::MAX,
            ..Default::default()
        }));
        let deployment = |filter| deployment_filter(Some(filter)).is_err();
        assert!(deployment(v1::DeploymentFilter {
            id_prefix: "01a".into(),
            ..Default::default()
        }));
        assert!(deployment(v1::DeploymentFilter {
            created_by: long,
            ..Default::default()
        }));
    }
}
