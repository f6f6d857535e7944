//! What a server says to the holder of a key that it revoked, and what to do about it.

use std::path::Path;

use kernex_proto::error::Reason;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::config::state_dir_flag;

/// Why this device's key does not work any more, and never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// Its device was deleted.
    Deleted,
    /// Another key took the device over.
    Replaced,
}

impl Revoked {
    /// Reads it from a refusal; `None` when the refusal has another reason.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        match Reason::parse(&status.get_details_error_info()?.reason)? {
            Reason::DeviceDeleted => Some(Self::Deleted),
            Reason::KeyReplaced => Some(Self::Replaced),
            _ => None,
        }
    }

    /// What happened, as the first half of a sentence.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Deleted => "this device was deleted from the server, and its key is revoked",
            Self::Replaced => {
                "another key took this device over, and the one of this machine is revoked"
            }
        }
    }

    /// The next step, for a person at the device.
    pub(crate) fn advice(self, state_dir: &Path) -> String {
        let anew = format!(
            "stop the agent, run `kernex-agent enroll --new-key --token-file FILE{}` with a new token (from `kernexctl \
             enrollment create`), and start it again",
            state_dir_flag(state_dir)
        );
        match self {
            Self::Deleted => anew,
            Self::Replaced => format!(
                "another machine is that device now; should this one be a device of its own, {anew}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernex_proto::error::DOMAIN;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    #[test]
    fn only_a_reason_says_that_a_key_is_revoked() {
        let status = |reason: &str| {
            let details = ErrorDetails::with_error_info(reason, DOMAIN, []);
            Status::with_error_details(Code::Unauthenticated, "not authenticated", details)
        };
        let table = [
            ("DEVICE_DELETED", Some(Revoked::Deleted)),
            ("KEY_REPLACED", Some(Revoked::Replaced)),
            ("UNAUTHENTICATED", None),
            ("SOMETHING_NEW", None),
        ];
        for (reason, expected) in table {
            assert_eq!(Revoked::of(&status(reason)), expected, "{reason}");
        }
        assert_eq!(Revoked::of(&Status::unauthenticated("deleted")), None);
    }
}
