//! The caller, and the versions of both programs, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, state_word, wire::Wire};

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct WhoAmIView {
    caller: Wire<v1::WhoAmIResponse>,
}

impl From<v1::WhoAmIResponse> for WhoAmIView {
    fn from(caller: v1::WhoAmIResponse) -> Self {
        Self {
            caller: Wire(caller),
        }
    }
}

impl WhoAmIView {
    fn role(&self) -> String {
        state_word!(v1::Role, self.caller.role, "ROLE_")
    }
}

impl View for WhoAmIView {
    const EMPTY: &'static str = "Nobody.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["NAME", "ROLE", "CLUSTER", "SERVER"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        let caller = &self.caller;
        vec![
            Field::plain(&caller.name),
            Field::plain(self.role()),
            Field::plain(&caller.cluster_id),
            Field::plain(&caller.server_version),
        ]
    }

    fn name(&self) -> String {
        self.caller.name.clone()
    }
}

impl Details for WhoAmIView {
    fn details(&self, _wide: bool, _now: Time) -> Vec<(&'static str, Field)> {
        let caller = &self.caller;
        vec![
            ("Name", Field::plain(&caller.name)),
            ("Role", Field::plain(self.role())),
            ("Cluster", Field::plain(&caller.cluster_id)),
            ("Server", Field::plain(&caller.server_version)),
        ]
    }
}

/// The versions of both programs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VersionView {
    client: &'static str,
    /// Null when the server was not asked, or did not answer.
    server: Option<String>,
    protocol_revision: u32,
}

impl VersionView {
    pub(crate) const fn new(server: Option<String>) -> Self {
        Self {
            client: env!("CARGO_PKG_VERSION"),
            server,
            protocol_revision: kernex_proto::PROTOCOL_REVISION,
        }
    }

    fn server(&self) -> Field {
        Field::plain(self.server.as_deref().unwrap_or("unknown"))
    }
}

impl View for VersionView {
    const EMPTY: &'static str = "No version.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["CLIENT", "SERVER"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![Field::plain(self.client), self.server()]
    }

    fn name(&self) -> String {
        self.client.to_owned()
    }
}

impl Details for VersionView {
    fn details(&self, _wide: bool, _now: Time) -> Vec<(&'static str, Field)> {
        vec![
            ("Client", Field::plain(self.client)),
            ("Server", self.server()),
        ]
    }
}

/// A note when both programs have different versions. Versions that differ in the third number
/// alone are alike. When the second number differs by one, either side may be the older one.
pub(crate) fn skew(client: &str, server: &str) -> Option<String> {
    let numbers = |version: &str| {
        let mut parts = version
            .split(['.', '-', '+'])
            .map_while(|part| part.parse().ok());
        let (major, minor): (u64, u64) = (parts.next()?, parts.next()?);
        Some((major, minor))
    };
    let (ours, theirs) = (numbers(client)?, numbers(server)?);
    let apart = ours.1.abs_diff(theirs.1);
    if ours.0 == theirs.0 && apart == 0 {
        return None;
    }
    let older = if ours < theirs {
        "this program"
    } else {
        "the server"
    };
    Some(if ours.0 == theirs.0 && apart == 1 {
        format!("Both belong together; {older} is one version behind.")
    } else {
        format!("Versions so far apart are not tested together: update {older}.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_says_which_side_is_behind() {
        assert_eq!(skew("0.1.0", "0.1.7"), None);
        assert!(
            skew("0.1.0", "0.2.0")
                .unwrap()
                .contains("this program is one version behind")
        );
        assert!(
            skew("0.3.0", "0.1.0")
                .unwrap()
                .contains("update the server")
        );
        assert!(
            skew("1.0.0", "2.0.0-rc.1")
                .unwrap()
                .contains("update this program")
        );
        assert_eq!(skew("0.1.0", "unknown"), None);
    }
}
