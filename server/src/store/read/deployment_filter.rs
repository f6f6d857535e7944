//! Which deployments a list has.

use kernex_proto::ids::DeploymentId;
use sea_orm::{ColumnTrait, Condition, QueryFilter, Select};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    domain::{
        bundle_reference::BundleReference,
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{
        db::values::clean,
        entity::{deployment, stored::Stored},
        read::scope::Scope,
    },
};

/// Which deployments are meant. Every field that is set has to hold; an empty one means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentFilter {
    /// It is in one of these states, or it ended with one of `results`.
    pub states: Vec<DeploymentState>,
    pub results: Vec<DeploymentResult>,
    pub bundle: Option<BundleReference>,
    /// Made by this caller.
    pub created_by: Option<String>,
    /// Made at this time or later.
    pub since: Option<Timestamp>,
    /// Its id begins like this.
    pub id: Option<IdPrefix>,
    /// The name that its maker gave it.
    pub name: Option<String>,
}

/// The first digits of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPrefix {
    first: Uuid,
    last: Uuid,
}

impl IdPrefix {
    /// Fewest digits. Ids begin with their time, so fewer digits would mean hours of deployments.
    const FEWEST: usize = 8;

    /// The ids that begin with these digits, with or without dashes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let long_enough = (Self::FEWEST..=32).contains(&digits.len());
        let pad = |with: &str| {
            let rest = with.repeat(32_usize.saturating_sub(digits.len()));
            Uuid::try_parse(&format!("{digits}{rest}"))
        };
        match (pad("0"), pad("f")) {
            (Ok(first), Ok(last)) if long_enough => Ok(Self { first, last }),
            _ => Err(format!(
                "it has to be {} to 32 hexadecimal digits, the first ones of an id",
                Self::FEWEST
            )),
        }
    }
}

impl DeploymentFilter {
    /// The deployments that are meant.
    pub(crate) fn found(&self, scope: Scope) -> Select<deployment::Entity> {
        let mut all = Condition::all();
        if !self.states.is_empty() || !self.results.is_empty() {
            let states = self.states.iter().map(|state| state.as_str());
            let results = self.results.iter().map(|result| result.as_str());
            all = all.add(
                Condition::any()
                    .add(deployment::Column::State.is_in(states))
                    .add(deployment::Column::Result.is_in(results)),
            );
        }
        if let Some(reference) = &self.bundle {
            all = all.add(is_of(reference));
        }
        if let Some(name) = &self.created_by {
            all = all.add(deployment::Column::CreatedBy.eq(clean(name)));
        }
        if let Some(name) = &self.name {
            all = all.add(deployment::Column::Name.eq(clean(name)));
        }
        if let Some(since) = self.since {
            all = all.add(deployment::Column::CreatedAt.gte(since.0));
        }
        if let Some(IdPrefix { first, last }) = self.id {
            let id = |uuid| Stored(DeploymentId(uuid));
            all = all.add(deployment::Column::Id.between(id(first), id(last)));
        }
        scope.rows::<deployment::Entity>().filter(all)
    }
}

fn is_of(reference: &BundleReference) -> Condition {
    let all = Condition::all();
    match reference {
        BundleReference::Name(name) => all.add(deployment::Column::BundleName.eq(clean(name))),
        BundleReference::Version(name, version) => all
            .add(deployment::Column::BundleName.eq(clean(name)))
            .add(deployment::Column::BundleVersion.eq(clean(version))),
        BundleReference::Digest(digits) => {
            all.add(deployment::Column::Digest.starts_with(digits.as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_named_by_its_first_digits() {
        let id = Uuid::try_parse("01a22470-1f3c-7abc-8def-0123456789ab").unwrap();
        for text in [
            "01a22470",
            "01a22470-1f3c",
            "01a224701f3c7",
            &id.to_string(),
        ] {
            let IdPrefix { first, last } = IdPrefix::parse(text).unwrap();
            assert!(first <= id && id <= last, "{text}");
        }
        let other = IdPrefix::parse("01a22471").unwrap();
        assert!(other.first > id);
        for wrong in ["", "01a2247", "01a2247x", &"0".repeat(33), "01a2247\0"] {
            assert!(IdPrefix::parse(wrong).is_err(), "{wrong}");
        }
    }
}
