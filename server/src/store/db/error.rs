//! Errors of the store.

use std::fmt::Display;

/// What the store answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// No such thing.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// How it was named.
        id: String,
    },
    /// The name is taken.
    #[error("{kind} `{id}` exists already{why}")]
    AlreadyExists {
        /// What exists.
        kind: &'static str,
        /// Its name.
        id: String,
        /// What is different about it, with a leading separator.
        why: String,
    },
    /// The revision moved on.
    #[error("{kind} `{id}` has changed meanwhile: it is at revision {revision}; read it again")]
    Conflict {
        /// What changed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// Where it is now.
        revision: u64,
    },
    /// Something needs it.
    #[error("{kind} `{id}` is in use: {why}")]
    InUse {
        /// What is needed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// By whom.
        why: String,
    },
    /// A field is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Nothing matched.
    #[error("no device matched")]
    NoTargets,
    /// A copy of a device that an operator decided against.
    #[error(
        "this copy of the device `{0}` was given up; enrol it as a device of its own, with a new key and an empty state folder"
    )]
    CopyGivenUp(String),
    /// A session number that was never given.
    #[error(
        "`{name}` says that its newest session was number {told}, and {issued} is the newest that was given; the device is conflicted until an operator decides (`kernexctl device resolve`)"
    )]
    EpochNotIssued {
        /// Name of the device.
        name: String,
        /// What the agent says.
        told: u64,
        /// What was given.
        issued: u64,
    },
    /// An older revision of the session protocol than the device spoke before.
    #[error(
        "`{name}` spoke revision {before} of the protocol before and comes with {spoken} now: somebody may be in between, or its agent is an older one (`kernexctl device resolve --allow-downgrade`)"
    )]
    ProtocolDowngraded {
        /// Name of the device.
        name: String,
        /// What it comes with.
        spoken: u32,
        /// What it spoke before.
        before: u32,
    },
    /// There is nothing to decide.
    #[error("the device `{0}` is not conflicted; there is nothing to resolve")]
    NotConflicted(String),
    /// It does not stand where that makes sense.
    #[error("{kind} `{id}` {why}")]
    WrongState {
        /// What was meant.
        kind: &'static str,
        /// Its name.
        id: String,
        /// How it stands, as the rest of a sentence.
        why: String,
    },
    /// It is finished already.
    #[error("it is finished already")]
    Finished,
    /// No device of a deployment can go back.
    #[error("no device can go back: {0}")]
    NothingToRollBack(String),
    /// The same request id came with another body.
    #[error("this request id was used for another request")]
    RequestIdReused,
    /// The database failed.
    #[error("the database failed")]
    Db(#[source] sea_orm::DbErr),
}

/// There is no such thing.
pub(crate) fn not_found(kind: &'static str, id: impl Display) -> StoreError {
    StoreError::NotFound {
        kind,
        id: id.to_string(),
    }
}
