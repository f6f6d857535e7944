//! Small disks of a test's own: one that loses power, and one that is soon full.
//!
//! Both are mounts, so they need root. Where they cannot be had, `cfg(kernex_disks)` is not set and
//! the tests that need them are shown as ignored.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long killed programs may hold on to a disk.
const RELEASE_LIMIT: Duration = Duration::from_secs(20);

const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// An ext4 file system in a file, mounted through a loop device. Dropped, it is gone with
/// everything that used it.
#[derive(Debug)]
pub struct DiskImage {
    mount: Mount,
    image: PathBuf,
    _folder: TempDir,
}

impl DiskImage {
    /// Makes, formats and mounts one that can hold `megabytes`. It takes that much only once it is
    /// full.
    pub fn new(megabytes: u64) -> io::Result<Self> {
        let folder = TempDir::with_prefix("kernex-disk-")?;
        let image = folder.path().join("image");
        File::create(&image)?.set_len(megabytes << 20)?;
        // A small log, and nothing left to do in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        let mut format = Command::new("mkfs.ext4");
        format.args(["-q", "-F", "-m", "0", "-J", "size=4", "-E", options]);
        run(format.arg(&image))?;
        let path = folder.path().join("disk");
        fs::create_dir(&path)?;
        let mount = Mount { path };
        mount_image(&image, &mount.path)?;
        Ok(Self {
            mount,
            image,
            _folder: folder,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount.path
    }

    /// Stops the file system where it is: nothing that was not synced will ever reach the disk, and
    /// every access fails.
    pub fn cut_power(&self) -> io::Result<()> {
        shut_down(&File::open(self.path())?)
    }

    /// Kills whatever still uses the disk and mounts it again, which replays its log.
    pub fn restore_power(&self) -> io::Result<()> {
        self.mount.release()?;
        mount_image(&self.image, self.path())
    }
}

/// A file system in memory with a size limit.
#[derive(Debug)]
pub struct TinyDisk {
    mount: Mount,
    ballast: PathBuf,
    _folder: TempDir,
}

impl TinyDisk {
    /// Makes and mounts one of `kilobytes`.
    pub fn new(kilobytes: u64) -> io::Result<Self> {
        let folder = TempDir::with_prefix("kernex-disk-")?;
        let path = folder.path().join("disk");
        fs::create_dir(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k,mode=0755")]);
        run(mount.arg("kernex-test").arg(&path))?;
        Ok(Self {
            ballast: path.join("ballast"),
            mount: Mount { path },
            _folder: folder,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount.path
    }

    /// Bytes that are free now.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it up but for `left` bytes, give or take a page.
    pub fn fill(&self, left: u64) -> io::Result<()> {
        self.empty()?;
        let ballast = File::create(&self.ballast)?;
        let bytes = self.free()?.saturating_sub(left);
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&ballast, flags, 0, bytes.max(1)) {
            // Another process took the last page. The disk is full, as it should be.
            Err(rustix::io::Errno::NOSPC) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Lets it be read only, or written again. Refused while a file is open for writing.
    pub fn set_read_only(&self, read_only: bool) -> io::Result<()> {
        let how = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        run(Command::new("mount").args(["-o", how]).arg(self.path()))
    }

    /// Takes the filling away.
    pub fn empty(&self) -> io::Result<()> {
        // The file is cut short first, because a process that forks elsewhere may hold it open for
        // a moment longer.
        let cut = File::options().write(true).open(&self.ballast);
        match cut.and_then(|ballast| ballast.set_len(0)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::remove_file(&self.ballast),
        }
    }
}

/// A mount that ends with its owner.
#[derive(Debug)]
struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Kills whatever uses it, until it can be unmounted.
    fn release(&self) -> io::Result<()> {
        let end = Instant::now() + RELEASE_LIMIT;
        loop {
            for pid in users(&self.path) {
                let _ = kill_process(pid, Signal::KILL);
            }
            match run(Command::new("umount").arg(&self.path)) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => thread::sleep(BETWEEN_TRIES),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            // Unmounted lazily, so that at least no new process finds it.
            let _ = run(Command::new("umount").arg("-l").arg(&self.path));
            eprintln!("{} could not be unmounted: {error}", self.path.display());
        }
    }
}

/// Whether disks can be made here; `Err` says why not.
pub fn available() -> Result<(), String> {
    DiskImage::new(16).map(drop).map_err(|error| {
        format!("disks of a test's own need root, mkfs.ext4 and loop devices: {error}")
    })
}

/// `mount` sets up the loop device so that it goes with the mount, also when this program does not
/// live to see it.
fn mount_image(image: &Path, path: &Path) -> io::Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "ext4", "-o", "loop,noatime"]);
    run(mount.arg(image).arg(path))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", said.trim())))
}

/// Processes other than this one that have anything of `mount` open, mapped or for a working
/// folder.
fn users(mount: &Path) -> Vec<Pid> {
    let own = rustix::process::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| *pid != own && uses(*pid, mount))
        .collect()
}

fn uses(pid: Pid, mount: &Path) -> bool {
    let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let leads_there =
        |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mount));
    let open = fs::read_dir(folder.join("fd")).into_iter().flatten();
    ["cwd", "root", "exe"]
        .iter()
        .any(|name| leads_there(&folder.join(name)))
        || open.flatten().any(|entry| leads_there(&entry.path()))
        || fs::read_to_string(folder.join("maps"))
            .is_ok_and(|maps| maps.contains(&*mount.to_string_lossy()))
}

/// `FS_IOC_SHUTDOWN` without writing the log out.
#[expect(
    unsafe_code,
    reason = "no library wraps this call; the number and the type of its argument are the kernel's"
)]
fn shut_down(disk: &File) -> io::Result<()> {
    const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: the call reads one `u32` and keeps nothing.
    unsafe {
        let call = rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(disk, call)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Images of loop devices that are in `folder`.
    fn loop_devices(folder: &Path) -> Vec<String> {
        let mut list = Command::new("losetup");
        list.args(["--list", "--noheadings", "--output", "BACK-FILE"]);
        let output = list.output().expect("losetup runs").stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        let folder = folder.to_string_lossy();
        let ours = text.lines().filter(|line| line.contains(&*folder));
        ours.map(str::to_owned).collect()
    }

    fn write(path: &Path, synced: bool) {
        let mut file = File::create(path).unwrap();
        file.write_all(b"x").unwrap();
        if synced {
            file.sync_all().unwrap();
            File::open(path.parent().unwrap())
                .unwrap()
                .sync_all()
                .unwrap();
        }
    }

    #[test]
    #[cfg_attr(
        not(kernex_disks),
        ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
    )]
    fn a_power_cut_loses_unsynced_data_and_kills_programs_on_the_disk() {
        let disk = DiskImage::new(16).unwrap();
        let (kept, lost) = (disk.path().join("kept"), disk.path().join("lost"));
        write(&kept, true);
        write(&lost, false);
        let mut user = Command::new("sleep")
            .arg("600")
            .current_dir(disk.path())
            .spawn()
            .unwrap();
        disk.cut_power().unwrap();
        assert!(File::create(disk.path().join("more")).is_err());
        disk.restore_power().unwrap();
        assert!(!user.wait().unwrap().success());
        assert_eq!(fs::read(&kept).unwrap(), b"x");
        assert!(!lost.exists(), "what was not synced is there");
        write(&lost, true);
    }

    #[test]
    #[cfg_attr(
        not(kernex_disks),
        ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
    )]
    fn a_dropped_disk_leaves_no_loop_device_and_no_file() {
        let disk = DiskImage::new(16).unwrap();
        let folder = disk.path().parent().unwrap().to_owned();
        for _ in 0..3 {
            disk.cut_power().unwrap();
            disk.restore_power().unwrap();
        }
        assert_eq!(loop_devices(&folder).len(), 1);
        drop(disk);
        // The kernel lets go a moment after the last user has.
        let end = Instant::now() + RELEASE_LIMIT;
        while !loop_devices(&folder).is_empty() {
            assert!(Instant::now() < end, "{:?}", loop_devices(&folder));
            thread::sleep(BETWEEN_TRIES);
        }
        assert!(!folder.exists());
    }

    #[test]
    #[cfg_attr(
        not(kernex_disks),
        ignore = "needs root, mkfs.ext4 and loop devices; fails instead with CI=true"
    )]
    fn a_tiny_disk_is_full_and_empty_again() {
        let disk = TinyDisk::new(512).unwrap();
        disk.fill(8192).unwrap();
        let free = disk.free().unwrap();
        assert!(free <= 8192 + 4096, "{free}");
        let big = fs::write(disk.path().join("big"), vec![1; 64 * 1024]);
        assert_eq!(big.unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.empty().unwrap();
        fs::write(disk.path().join("big"), vec![1; 64 * 1024]).unwrap();
    }
}
