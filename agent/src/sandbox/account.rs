//! Who scripts run as: name and home, which service managers often leave out of the environment.
//!
//! The table of accounts is read as a file. A static build could not ask name services anyway, and
//! the accounts of services are local.

use std::path::{Path, PathBuf};

const PASSWD: &str = "/etc/passwd";

/// Name and home of the account that the agent runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    /// A folder that is there.
    pub(crate) home: PathBuf,
}

/// The account of this process. `outer` is the agent's own environment; `instead` is the home of
/// an account that has none, as `nobody` and many system accounts.
pub(crate) fn own(outer: impl Fn(&str) -> Option<String>, instead: &Path) -> Account {
    let uid = rustix::process::geteuid().as_raw();
    let table = std::fs::read(PASSWD).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    account(&table, uid, outer, instead, Path::is_dir)
}

fn account(
    table: &str,
    uid: u32,
    outer: impl Fn(&str) -> Option<String>,
    instead: &Path,
    is_dir: impl Fn(&Path) -> bool,
) -> Account {
    let entry = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let is_own = fields.nth(1)?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        is_own.then(|| (name.to_owned(), PathBuf::from(home)))
    });
    let (name, home) = entry.unzip();
    // A `HOME` that the agent was started with was set on purpose.
    let homes = outer("HOME").map(PathBuf::from).into_iter().chain(home);
    let mut homes = homes.filter(|home| home.is_absolute() && is_dir(home));
    let given = || outer("USER").filter(|user| !user.is_empty());
    Account {
        name: name.or_else(given).unwrap_or_else(|| uid.to_string()),
        home: homes.next().unwrap_or_else(|| instead.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "root:x:0:0:root:/root:/bin/bash\n+::::::\nbroken\nbad:x:no:0::/:/bin/sh\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn name_and_home_come_from_the_table_and_the_home_is_there() {
        for (uid, home, user, wanted) in [
            (0, None, None, ("root", "/root")),
            (0, Some("/srv"), Some("admin"), ("root", "/srv")),
            (0, Some("/gone"), None, ("root", "/root")),
            (0, Some(""), None, ("root", "/root")),
            (65534, None, None, ("nobody", "/state")),
            (4000, None, Some("dyn"), ("dyn", "/state")),
            (4000, None, None, ("4000", "/state")),
        ] {
            let outer = |name: &str| match name {
                "HOME" => home.map(str::to_owned),
                "USER" => user.map(str::to_owned),
                _ => None,
            };
            let there = |path: &Path| path == Path::new("/root") || path == Path::new("/srv");
            let found = account(TABLE, uid, outer, Path::new("/state"), there);
            assert_eq!(
                (found.name.as_str(), found.home.to_str().unwrap()),
                wanted,
                "{uid}"
            );
        }
    }

    #[test]
    fn this_process_has_an_account() {
        let found = own(|_| None, Path::new("/"));
        assert!(!found.name.is_empty() && found.home.is_dir(), "{found:?}");
    }
}
