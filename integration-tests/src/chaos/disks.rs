//! Nothing left: disks that are full at some moment, the devices' and the server's, and programs
//! out of descriptors.
//!
//! Every device and the server's data folder have a small disk of their own ([`TinyDisk`]). It is
//! filled up but for a random rest while deployments flow, stays so for a while, and is emptied
//! again; or the program is allowed only a few more descriptors than it has open. What cannot be
//! done then has to fail by name or wait: no program may end because of it, and nothing may be
//! lost.

use std::{io, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::time::sleep;

use super::{
    Failure, Figures, Plan, World,
    power::{no_disk, skipped},
    workload::Workload,
};
use crate::disk_image::{self, TinyDisk};

const DEVICES: usize = 6;

/// Faults before each check of the rules.
const ROUND: usize = 15;

const DEVICE_KILOBYTES: u64 = 12 << 10;

const SERVER_KILOBYTES: u64 = 512 << 10;

/// Which resource runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// The disk, but for so many bytes.
    Space(u64),
    /// Descriptors, but for so many.
    Descriptors(u64),
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Index of the device; the server when there is none.
    device: Option<usize>,
    shortage: Shortage,
    after: Duration,
    lasts: Duration,
}

impl Fault {
    fn draw(rng: &mut StdRng, devices: usize) -> Self {
        let device = rng.random_bool(0.7).then(|| rng.random_range(0..devices));
        let shortage = if rng.random_bool(0.7) {
            // Usually enough for a part of a file, a commit or an archive; sometimes not one byte.
            Shortage::Space(match rng.random_range(0..4) {
                0 => 0,
                1 => rng.random_range(0..16_384),
                2 => rng.random_range(0..131_072),
                _ => rng.random_range(0..1_048_576),
            })
        } else {
            Shortage::Descriptors(rng.random_range(0..4))
        };
        Self {
            device,
            shortage,
            after: Duration::from_millis(rng.random_range(0..500)),
            lasts: Duration::from_millis(rng.random_range(200..2500)),
        }
    }
}

/// Makes `plan.count` shortages and checks the rules after every round.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    if let Err(why) = disk_image::available() {
        return skipped(plan, &why);
    }
    let devices = plan.devices.unwrap_or(DEVICES);
    // Declared first, so that they outlive the programs on them.
    let disks = Disks::new(devices).map_err(no_disk)?;
    let mut world = disks.world(plan).await?;
    let mut figures = Figures::default();
    let mut left = plan.count;
    let mut summary = None;
    while left > 0 {
        let faults = left.min(ROUND);
        left -= faults;
        let load = Workload::begin(&mut world, 2);
        for _ in 0..faults {
            let fault = world.traffic.decide(|rng| Fault::draw(rng, devices));
            disks.strike(&mut world, fault, &mut figures).await?;
        }
        load.end(&mut world, &mut figures).await?;
        summary = Some(world.verify(&mut figures).await?);
    }
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

struct Disks {
    server: TinyDisk,
    devices: Vec<TinyDisk>,
}

impl Disks {
    fn new(devices: usize) -> io::Result<Self> {
        Ok(Self {
            server: TinyDisk::new(SERVER_KILOBYTES)?,
            devices: (0..devices)
                .map(|_| TinyDisk::new(DEVICE_KILOBYTES))
                .collect::<io::Result<_>>()?,
        })
    }

    async fn world(&self, plan: &Plan) -> Result<World, Failure> {
        let devices = self.devices.iter().map(|disk| disk.path());
        World::on_disks(plan, self.server.path(), devices).await
    }

    async fn strike(
        &self,
        world: &mut World,
        fault: Fault,
        figures: &mut Figures,
    ) -> Result<(), Failure> {
        sleep(fault.after).await;
        let (who, process, disk) = match fault.device {
            Some(place) => (
                world.agents[place].name.clone(),
                world.agents[place].process(),
                &self.devices[place],
            ),
            None => ("server".to_owned(), world.server.process(), &self.server),
        };
        world.plan.history.note(format_args!("{who}: {fault:?}"));
        match fault.shortage {
            Shortage::Space(left) => {
                disk.fill(left).map_err(no_disk)?;
                sleep(fault.lasts).await;
                disk.empty().map_err(no_disk)?;
                figures.count("full disks", 1);
            }
            Shortage::Descriptors(more) => {
                let pid = process.pid();
                limit_descriptors(pid, Some(open_descriptors(pid) + more)).map_err(no_limit)?;
                sleep(fault.lasts).await;
                limit_descriptors(pid, None).map_err(no_limit)?;
                figures.count("descriptors exhausted", 1);
            }
        }
        figures.count("faults", 1);
        let ended = match fault.device {
            Some(place) => world.agents[place].has_ended(),
            None => world.server.has_ended(),
        };
        if ended {
            return Err(Failure::new(format!("{who} ended by {fault:?}")).with_dump(world.dump()));
        }
        Ok(())
    }
}

fn open_descriptors(pid: u32) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    open.map_or(0, |entries| entries.count() as u64)
}

/// Allows a process so many descriptors; without a number as many as this program may have itself.
fn limit_descriptors(pid: u32, most: Option<u64>) -> io::Result<()> {
    let own = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: most.or(own.current),
        maximum: own.maximum,
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit)?;
    Ok(())
}

fn no_limit(error: io::Error) -> Failure {
    Failure::new(format!("a limit of descriptors was not set: {error}"))
}
