//! Identifiers as types: an id that was parsed once is trusted everywhere.

use std::{fmt, str::FromStr};

use uuid::Uuid;

pub use crate::{digest::Digest, invalid_id::InvalidId};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new, time-ordered id.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId {
                    kind: $kind,
                    value: text.chars().take(64).collect(),
                })
            }
        }
    };
}

uuid_id!(
    /// One machine under management.
    DeviceId, "device id"
);
uuid_id!(
    /// An operator's order.
    DeploymentId, "deployment id"
);
uuid_id!(
    /// One device within one deployment.
    TargetId, "target id"
);
uuid_id!(
    /// One installation of the control plane; lives in its database.
    ClusterId, "cluster id"
);
uuid_id!(
    /// The agent's durable record.
    JournalId, "journal id"
);
uuid_id!(
    /// An enrolment or operator token.
    TokenId, "token id"
);

/// One numbered try of a target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AttemptId {
    pub target: TargetId,
    /// From 1.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.target, self.number)
    }
}

impl From<AttemptId> for crate::v1::AttemptRef {
    fn from(id: AttemptId) -> Self {
        Self {
            target_id: id.target.to_string(),
            attempt: id.number,
        }
    }
}

impl TryFrom<&crate::v1::AttemptRef> for AttemptId {
    type Error = InvalidId;

    fn try_from(wire: &crate::v1::AttemptRef) -> Result<Self, InvalidId> {
        if wire.attempt == 0 {
            return Err(InvalidId {
                kind: "attempt number",
                value: "0".into(),
            });
        }
        Ok(Self {
            target: wire.target_id.parse()?,
            number: wire.attempt,
        })
    }
}

/// Checks a name of a device or bundle: 1 to 100 of `a-z A-Z 0-9 . _ -`, starting with a letter or
/// digit.
pub fn check_name(kind: &'static str, name: &str) -> Result<(), InvalidId> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if starts_well && name.len() <= 100 && name.bytes().all(good) {
        return Ok(());
    }
    Err(InvalidId {
        kind,
        value: name.chars().take(120).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_be_paths() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "ä", &"x".repeat(101)] {
            assert!(check_name("device name", bad).is_err(), "{bad}");
        }
        for good in ["edge-1", "a", "1.2_x"] {
            assert!(check_name("device name", good).is_ok(), "{good}");
        }
    }
}
