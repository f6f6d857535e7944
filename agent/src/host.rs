//! What this machine is (inventory) and how it is (vital signs).

use std::path::{Path, PathBuf};

use kernex_proto::v1;
use sysinfo::System;

/// Reads vital signs; keeps the previous CPU counters, since use is a difference.
pub(crate) struct Host {
    system: Option<System>,
    state_dir: PathBuf,
}

impl Host {
    pub(crate) fn new(state_dir: &Path) -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self {
            system,
            state_dir: state_dir.to_owned(),
        }
    }

    /// How the machine is now. CPU use is the mean since the previous call.
    pub(crate) fn vital_signs(&mut self) -> v1::VitalSigns {
        let mut signs = v1::VitalSigns {
            uptime_seconds: crate::clock::since_boot().as_secs(),
            ..v1::VitalSigns::default()
        };
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory();
            let cpu = f64::from(system.global_cpu_usage());
            // Counters that go backwards give no useful value; none is sent.
            signs.cpu_percent = if cpu.is_finite() {
                cpu.clamp(0.0, 100.0)
            } else {
                0.0
            };
            signs.memory_used_mb = system.used_memory() >> 20;
            signs.memory_total_mb = system.total_memory() >> 20;
        }
        if let Ok(space) = disk_space(&self.state_dir) {
            signs.disk_free_bytes = space.free;
            signs.disk_total_bytes = space.total;
        }
        signs
    }
}

pub(crate) fn inventory() -> v1::Inventory {
    let mut memory_bytes = 0;
    if let Ok(mut system) = System::new() {
        system.refresh_memory();
        memory_bytes = system.total_memory();
    }
    v1::Inventory {
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        hostname: System::host_name().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        cpu_count: std::thread::available_parallelism()
            .map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes,
    }
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskSpace {
    /// What an ordinary user may still write.
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Whether programs on this file system may not be started.
pub(crate) fn is_noexec(path: &Path) -> std::io::Result<bool> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Space of the file system that holds a path.
pub(crate) fn disk_space(path: &Path) -> std::io::Result<DiskSpace> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(DiskSpace {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}
