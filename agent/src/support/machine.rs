//! The machine of a support bundle: what it is, the disk of the state folder, what is mounted
//! there, and which files are in it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::{Value, json};

use crate::{clock, host};

/// Most mounts and files that are told.
const MOST: usize = 200;

/// What the machine is, and since when it runs.
pub(super) fn host() -> Value {
    let inventory = host::inventory();
    json!({
        "hostname": inventory.hostname,
        "kernel": inventory.kernel,
        "cpu_count": inventory.cpu_count,
        "memory_bytes": inventory.memory_bytes,
        "boot_id": clock::boot_id(),
        "uptime_seconds": clock::since_boot().as_secs(),
    })
}

/// The disk of the state folder. Inodes can run out before bytes do.
pub(super) fn disk(state_dir: &Path) -> Value {
    let stat = match statvfs(state_dir) {
        Ok(stat) => stat,
        Err(error) => return json!({"error": error.to_string()}),
    };
    json!({
        "free_bytes": stat.f_bavail.saturating_mul(stat.f_frsize),
        "total_bytes": stat.f_blocks.saturating_mul(stat.f_frsize),
        "free_inodes": stat.f_favail,
        "total_inodes": stat.f_files,
        "read_only": stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        "noexec": stat.f_flag.contains(StatVfsMountFlags::NOEXEC),
    })
}

/// The mounts that the state folder is on, and those below it.
pub(super) fn mounts(state_dir: &Path) -> Value {
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => Value::from(mounts_of(&text, state_dir)),
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// From lines as in `/proc/self/mountinfo`:
///
/// ```text
/// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
/// ```
///
/// The options at the end are those of the file system. They are left out: some file systems have
/// names of users and files with passwords there.
fn mounts_of(text: &str, state_dir: &Path) -> Vec<Value> {
    let mounts = text.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, options) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (kind, source) = (file_system.next()?, file_system.next()?);
        let is_near = state_dir.starts_with(point) || Path::new(point).starts_with(state_dir);
        is_near.then(
            || json!({"mounted_at": point, "options": options, "type": kind, "source": source}),
        )
    });
    mounts.take(MOST).collect()
}

/// What is in the state folder itself, by name, without what is in the files.
pub(super) fn files(state_dir: &Path) -> Value {
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let mut files: Vec<(String, Value)> = entries
        .flatten()
        .take(MOST)
        .filter_map(|entry| {
            let seen = entry.metadata().ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = json!({
                "name": name,
                "folder": seen.is_dir(),
                "bytes": seen.len(),
                "mode": format!("{:o}", seen.mode() & 0o7777),
                "user": seen.uid(),
            });
            Some((name, file))
        })
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files.into_iter().map(|(_, file)| file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_the_way_and_below_are_told_without_options_of_their_file_systems() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:35 / /var/lib rw,noexec - cifs //nas/x rw,username=ada,password=hunter2
41 40 0:36 / /var/lib/kernex-agent/bundles/app/state rw master:1 - tmpfs tmpfs rw
50 22 0:37 / /home rw - ext4 /dev/sdb rw
half a line
";
        let mounts = mounts_of(text, Path::new("/var/lib/kernex-agent"));
        let points: Vec<&str> = mounts
            .iter()
            .filter_map(|mount| mount["mounted_at"].as_str())
            .collect();
        assert_eq!(
            points,
            ["/", "/var/lib", "/var/lib/kernex-agent/bundles/app/state"]
        );
        assert_eq!(mounts[1]["options"], "rw,noexec");
        assert!(!Value::from(mounts).to_string().contains("hunter2"));
    }

    #[test]
    fn files_are_told_by_name_size_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("device.key"), "hunter2").unwrap();
        let files = files(dir.path());
        assert_eq!(files[0]["name"], "device.key");
        assert_eq!(files[0]["bytes"], 7);
        assert!(!files.to_string().contains("hunter2"));
        let missing = super::files(&dir.path().join("missing"));
        assert!(missing["error"].is_string());
    }
}
