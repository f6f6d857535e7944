//! Why the store did not do something. `error/table.rs` gives each error its status.

use std::fmt::Display;

/// What the store answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store did not do it. `kind` and `id` name a thing, as in "there is no device `edge-1`".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer; a caller may try again.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    #[error("there is no {kind} `{id}`")]
    NotFound {
        kind: &'static str,
        /// As the caller named it.
        id: String,
    },
    /// A name that has to be unique is taken.
    #[error("{kind} `{id}` exists already{why}")]
    AlreadyExists {
        kind: &'static str,
        id: String,
        /// How the existing thing differs from the new one, with a leading separator.
        why: String,
    },
    /// The caller's revision is not the current one.
    #[error("{kind} `{id}` has changed meanwhile: it is at revision {revision}; read it again")]
    Conflict {
        kind: &'static str,
        id: String,
        /// The current revision.
        revision: u64,
    },
    /// It cannot be deleted, because something needs it.
    #[error("{kind} `{id}` is in use: {why}")]
    InUse {
        kind: &'static str,
        id: String,
        /// Who needs it, as the rest of a sentence.
        why: String,
    },
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    /// No device matched an order.
    #[error("no device matched")]
    NoTargets,
    /// An operator decided against this copy of a device.
    #[error(
        "this copy of the device `{0}` was given up; enrol it as a device of its own, with a new key and an empty state folder"
    )]
    CopyGivenUp(String),
    /// The agent names a session number that the server never gave.
    #[error(
        "`{name}` says that its newest session was number {told}, and {issued} is the newest that was given; the device is conflicted until an operator decides (`kernexctl device resolve`)"
    )]
    EpochNotIssued {
        name: String,
        /// The number that the agent says.
        told: u64,
        /// The newest number that was given.
        issued: u64,
    },
    /// The device spoke a newer revision of the session protocol before.
    #[error(
        "`{name}` spoke revision {before} of the protocol before and comes with {spoken} now: somebody may be in between, or its agent is an older one (`kernexctl device resolve --allow-downgrade`)"
    )]
    ProtocolDowngraded {
        name: String,
        /// The revision that it speaks now.
        spoken: u32,
        /// The newest revision that it ever spoke.
        before: u32,
    },
    /// There is no conflict of this device to decide.
    #[error("the device `{0}` is not conflicted; there is nothing to resolve")]
    NotConflicted(String),
    /// The state of the thing does not allow the change.
    #[error("{kind} `{id}` {why}")]
    WrongState {
        kind: &'static str,
        id: String,
        /// Its state, as the rest of a sentence.
        why: String,
    },
    /// The deployment is finished already.
    #[error("it is finished already")]
    Finished,
    /// No device of a deployment can go back.
    #[error("no device can go back: {0}")]
    NothingToRollBack(String),
    /// The request id came before, with another request.
    #[error("this request id was used for another request")]
    RequestIdReused,
    /// No other admin token works, and without one nobody could make tokens.
    #[error(
        "the operator token `{0}` is the last admin token that works; make another one first (`kernexctl token create NAME --role admin`), or replace it on the server's machine with `kernex-server admin-token --replace`"
    )]
    LastAdmin(String),
    /// The schema has a change that this version does not know.
    #[error(
        "a newer kernex-server has used this database: its change `{0}` is not known to this version; start a kernex-server that is at least as new, or restore the backup from before the upgrade (docs/upgrade.md)"
    )]
    NewerSchema(String),
    /// The database failed in a way that does not pass.
    #[error("the database failed")]
    Db(#[source] sea_orm::DbErr),
}

pub(crate) fn not_found(kind: &'static str, id: impl Display) -> StoreError {
    StoreError::NotFound {
        kind,
        id: id.to_string(),
    }
}
