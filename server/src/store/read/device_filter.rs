//! Which devices a list has. A filter becomes conditions of one statement over several tables. The
//! program chooses afterwards where the two databases compare differently.

use std::time::Duration;

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Select,
    sea_query::{Expr, ExprTrait, LikeExpr},
};

use crate::{
    clock::Timestamp,
    domain::{
        bundle_reference::BundleReference, device::DeviceStatus, pattern::Pattern,
        selector::Selector,
    },
    store::{
        db::values::clean,
        entity::{
            device, device_drift, device_release, heartbeat, session,
            stored::{ReplicaId, Stored},
        },
        read::selectors::candidates,
    },
};

/// Which devices are meant. Every field that is set has to hold; an empty one means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    pub selector: Selector,
    pub statuses: Vec<DeviceStatus>,
    /// The version of the agent program is one of these.
    pub agent_versions: Vec<String>,
    /// It runs this. Where it drifted, its heartbeats count, not its outcomes.
    pub runs: Option<BundleReference>,
    /// Whether it runs something else than its last outcome said.
    pub drifted: Option<bool>,
    /// The last sign of life is at most this long ago.
    pub seen_within: Option<Duration>,
    /// No sign of life for this long, or none ever.
    pub unseen_for: Option<Duration>,
    /// A pattern for its name.
    pub name: Option<Pattern>,
}

impl From<Selector> for DeviceFilter {
    fn from(selector: Selector) -> Self {
        Self {
            selector,
            ..Self::default()
        }
    }
}

impl DeviceFilter {
    /// Whether a statement finds these devices and no others.
    pub(crate) fn is_exact(&self) -> bool {
        self.selector.is_all() && self.name.is_none()
    }

    /// Whether the pattern matches this name. A database may find more, see [`like`].
    pub(crate) fn takes_name(&self, name: &str) -> bool {
        self.name
            .as_ref()
            .is_none_or(|pattern| pattern.matches(name))
    }

    /// Those of `devices` that may be meant: all that are meant, and perhaps more. `replicas` are
    /// the servers that live.
    pub(crate) fn candidates(
        &self,
        devices: Select<device::Entity>,
        now: Timestamp,
        replicas: &[Stored<ReplicaId>],
    ) -> Select<device::Entity> {
        let mut all = Condition::all();
        if !self.statuses.is_empty() {
            let statuses = self.statuses.iter();
            let any = statuses.fold(Condition::any(), |any, status| {
                any.add(has_status(*status, replicas))
            });
            all = all.add(any);
        }
        if !self.agent_versions.is_empty() {
            let versions = self.agent_versions.iter().map(|version| clean(version));
            all = all.add(device::Column::AgentVersion.is_in(versions));
        }
        if let Some(reference) = &self.runs {
            all = all.add(runs(reference));
        }
        if let Some(drifted) = self.drifted {
            let drifts = device_drift::Entity::find()
                .select_only()
                .column(device_drift::Column::DeviceId)
                .filter(is_of_device((
                    device_drift::Entity,
                    device_drift::Column::DeviceId,
                )));
            let drifts = Expr::exists(drifts.into_query());
            all = all.add(if drifted { drifts } else { drifts.not() });
        }
        if let Some(age) = self.seen_within {
            all = all.add(was_seen_since(now.minus(age)));
        }
        if let Some(age) = self.unseen_for {
            all = all.add(was_seen_since(now.minus(age)).not());
        }
        if let Some(pattern) = &self.name {
            all = all.add(match pattern.only() {
                Some(name) => device::Column::Name.eq(clean(name)),
                None => Expr::col((device::Entity, device::Column::Name)).like(like(pattern)),
            });
        }
        candidates(devices, &self.selector).filter(all)
    }
}

/// In a subquery of a statement about devices: the row is about that device.
fn is_of_device<C: sea_orm::sea_query::IntoColumnRef>(column: C) -> Expr {
    Expr::col(column).equals((device::Entity, device::Column::Id))
}

fn has_status(status: DeviceStatus, replicas: &[Stored<ReplicaId>]) -> Condition {
    let conflicted = Expr::col((device::Entity, device::Column::Conflicted));
    let sessions = session::Entity::find()
        .select_only()
        .column(session::Column::DeviceId)
        .filter(is_of_device((session::Entity, session::Column::DeviceId)))
        .filter(session::Column::ConfirmedAt.is_not_null())
        .filter(session::Column::Replica.is_in(replicas.iter().copied()));
    let online = Expr::exists(sessions.into_query());
    let all = Condition::all();
    match status {
        DeviceStatus::Conflicted => all.add(conflicted),
        DeviceStatus::Online => all.add(conflicted.not()).add(online),
        DeviceStatus::Offline => all.add(conflicted.not()).add(online.not()),
    }
}

/// The device runs this: its last outcome said so and it does not drift, or its heartbeats say so.
fn runs(reference: &BundleReference) -> Condition {
    let release = |column| Expr::col((device_release::Entity, column));
    let drift = |column| Expr::col((device_drift::Entity, column));
    let named = |name: Expr, version: Expr, digest: Expr| match reference {
        BundleReference::Name(text) => name.eq(clean(text)),
        BundleReference::Version(text, of) => name.eq(clean(text)).and(version.eq(clean(of))),
        BundleReference::Digest(digits) => digest.like(format!("{digits}%")),
    };
    let drifted_there = device_drift::Entity::find()
        .select_only()
        .column(device_drift::Column::DeviceId)
        .filter(is_of_device((
            device_drift::Entity,
            device_drift::Column::DeviceId,
        )))
        .filter(
            drift(device_drift::Column::Name)
                .equals((device_release::Entity, device_release::Column::Name)),
        );
    let expected = device_release::Entity::find()
        .select_only()
        .column(device_release::Column::DeviceId)
        .filter(is_of_device((
            device_release::Entity,
            device_release::Column::DeviceId,
        )))
        .filter(named(
            release(device_release::Column::Name),
            release(device_release::Column::Version),
            release(device_release::Column::Digest),
        ))
        .filter(Expr::exists(drifted_there.into_query()).not());
    let seen = device_drift::Entity::find()
        .select_only()
        .column(device_drift::Column::DeviceId)
        .filter(is_of_device((
            device_drift::Entity,
            device_drift::Column::DeviceId,
        )))
        .filter(device_drift::Column::ActualDigest.is_not_null())
        .filter(named(
            drift(device_drift::Column::Name),
            drift(device_drift::Column::ActualVersion),
            drift(device_drift::Column::ActualDigest),
        ));
    Condition::any()
        .add(Expr::exists(expected.into_query()))
        .add(Expr::exists(seen.into_query()))
}

/// A session or a heartbeat, at this time or later.
fn was_seen_since(at: Timestamp) -> Condition {
    let beats = heartbeat::Entity::find()
        .select_only()
        .column(heartbeat::Column::DeviceId)
        .filter(is_of_device((
            heartbeat::Entity,
            heartbeat::Column::DeviceId,
        )))
        .filter(heartbeat::Column::At.gte(at.0));
    // A comparison with null is neither true nor false, and so would its negation be.
    let opened = device::Column::LastSeen
        .is_not_null()
        .and(device::Column::LastSeen.gte(at.0));
    Condition::any()
        .add(opened)
        .add(Expr::exists(beats.into_query()))
}

/// The pattern as `LIKE` has it. SQLite ignores the case of letters, so it may find more.
pub(crate) fn like(pattern: &Pattern) -> LikeExpr {
    const ESCAPE: char = '!';
    let mut text = String::new();
    for c in clean(pattern.as_str()).chars() {
        match c {
            '*' => text.push('%'),
            '?' => text.push('_'),
            '%' | '_' | ESCAPE => text.extend([ESCAPE, c]),
            c => text.push(c),
        }
    }
    LikeExpr::new(text).escape(ESCAPE)
}
