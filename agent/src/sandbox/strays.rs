//! Scripts that still run and that the journal does not know: a journal that was set aside had
//! begun them.
//!
//! How a script differs from a daemon that an ended script left: the agent makes each script the
//! leader of a process group, in the agent's own session. A background process has lost that
//! leader; a daemon has a session of its own.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use kernex_proto::ids::{AttemptId, DeviceId};

use super::{
    process::Process,
    process_tree::{Marker, Root, kill_tree},
};

#[derive(Debug, Clone)]
pub(crate) struct Stray {
    pub(crate) id: AttemptId,
    /// Its step, as in `KERNEX_STEP`.
    pub(crate) step: String,
    /// "name:version".
    pub(crate) bundle: String,
    root: Root,
}

impl Stray {
    pub(crate) fn pid(&self) -> i32 {
        self.root.pid
    }

    /// Kills it with everything it started.
    pub(crate) async fn kill(&self) {
        kill_tree(self.root, Marker::new(self.id), false).await;
    }
}

/// Every script of this device and this state folder that runs, as its environment says. Looks at
/// the whole process table.
pub(crate) fn running_scripts(device: DeviceId, state_dir: &Path) -> Vec<Stray> {
    let table = Process::all();
    let above = ancestors(&table);
    let leads = |process: &&Process| {
        process.pid == process.group
            && process.pid != process.session
            && !process.zombie
            // A script may have started this agent, to replace the old one; that script is spared.
            && !above.contains(&process.pid)
    };
    let of = |process: &Process| {
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
        let (id, step, bundle) = parse_environment(&environ, device, state_dir)?;
        Some(Stray {
            id,
            step,
            bundle,
            root: Root {
                pid: process.pid,
                start_ticks: process.start_ticks,
            },
        })
    };
    table.iter().filter(leads).filter_map(of).collect()
}

/// This process and those it descends from.
fn ancestors(table: &[Process]) -> HashSet<i32> {
    let parents: HashMap<i32, i32> = table.iter().map(|p| (p.pid, p.parent)).collect();
    let mut above = HashSet::new();
    let mut next = i32::try_from(std::process::id()).ok();
    while let Some(pid) = next {
        if !above.insert(pid) {
            break;
        }
        next = parents.get(&pid).copied();
    }
    above
}

/// The attempt, step and bundle that an environment names, if it is one that the agent of this
/// device and state folder made.
fn parse_environment(
    environ: &[u8],
    device: DeviceId,
    state_dir: &Path,
) -> Option<(AttemptId, String, String)> {
    let entries: HashMap<&str, &str> = environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('='))
        .collect();
    let said = |name: &str| entries.get(name).copied();
    let ours = said("KERNEX_DEVICE_ID") == Some(device.to_string().as_str());
    if !ours || !Path::new(said("KERNEX_STATE_DIR")?).starts_with(state_dir) {
        return None;
    }
    let id = AttemptId {
        target: said("KERNEX_TARGET_ID")?.parse().ok()?,
        number: said("KERNEX_ATTEMPT")?.parse().ok()?,
    };
    let bundle = format!(
        "{}:{}",
        said("KERNEX_BUNDLE_NAME").unwrap_or_default(),
        said("KERNEX_BUNDLE_VERSION").unwrap_or_default()
    );
    Some((
        id,
        said("KERNEX_STEP").unwrap_or_default().to_owned(),
        bundle,
    ))
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::TargetId;

    use super::*;

    #[test]
    fn only_scripts_of_this_device_and_folder_are_understood() {
        let (device, target) = (DeviceId::generate(), TargetId::generate());
        let environ = |device: DeviceId, folder: &str| {
            format!(
                "PATH=/bin\0KERNEX_DEVICE_ID={device}\0KERNEX_TARGET_ID={target}\0KERNEX_ATTEMPT=3\0\
                 KERNEX_STEP=script\0KERNEX_BUNDLE_NAME=app\0KERNEX_BUNDLE_VERSION=1.0\0\
                 KERNEX_STATE_DIR={folder}/bundles/app/state\0"
            )
        };
        let read =
            |environ: String| parse_environment(environ.as_bytes(), device, Path::new("/var/a"));
        let (id, step, bundle) = read(environ(device, "/var/a")).unwrap();
        assert_eq!((id.target, id.number), (target, 3));
        assert_eq!((step.as_str(), bundle.as_str()), ("script", "app:1.0"));
        assert_eq!(read(environ(device, "/var/ab")), None);
        assert_eq!(read(environ(DeviceId::generate(), "/var/a")), None);
        assert_eq!(read("PATH=/bin".to_owned()), None);
    }
}
