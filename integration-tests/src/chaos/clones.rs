//! What copies and clocks do: a device's disk is copied and both copies run, wall clocks jump by a
//! year and back, the server is restored from an older backup.
//!
//! Each fault is all three, one after the other, on one world. A copy has a witness of its own: it
//! may run nothing from the moment it is noticed. What a restored server never heard of is left out
//! of the judgement, and nothing else.

use std::{fs, path::Path, time::Duration};

use kernex_proto::v1::{DeviceStatus, ResolveDeviceRequest};
use rand::RngExt as _;
use tokio::{task::block_in_place, time::sleep};

use super::{Failure, Figures, Plan, World, WorldOptions, witness::Witness, workload::Workload};
use crate::{
    AgentOptions, ServerOptions, agent,
    wait::{seen, wait_for},
};

const DEVICES: usize = 4;

const YEAR: i64 = 365 * 24 * 3600;

/// Makes all three faults `plan.count` times and checks the rules after each.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let clock = tempfile::NamedTempFile::with_prefix("kernex-clock-").map_err(failed)?;
    let file = clock.path().display().to_string();
    let options = WorldOptions {
        server: ServerOptions::default().env("KERNEX_TEST_CLOCK_FILE", &file),
    };
    let mut world = World::empty(plan, options).await;
    let folder = world.server.scratch().to_owned();
    for number in 1..=plan.devices.unwrap_or(DEVICES) {
        let options = AgentOptions::named(&format!("edge-{number}"));
        world
            .enrol(&folder, options.env("KERNEX_TEST_CLOCK_FILE", &file))
            .await?;
    }
    world.online().await;
    let mut figures = Figures::default();
    let mut summary = None;
    for number in 0..plan.count {
        clone(&mut world, number, &mut figures).await?;
        let _ = world.verify(&mut figures).await?;
        clocks(&mut world, clock.path(), &mut figures).await?;
        summary = Some(world.verify(&mut figures).await?);
        if let Some(late) = summary
            .as_ref()
            .and_then(|summary| summary.endings.get("expired"))
        {
            return Err(Failure::new(format!(
                "{late} attempts expired because clocks jumped"
            )));
        }
        restore(&mut world, &mut figures).await?;
        summary = Some(world.verify(&mut figures).await?);
    }
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

/// A device's disk is copied; the original goes on; the copy comes, is noticed, and an operator
/// keeps one of them.
async fn clone(world: &mut World, number: usize, figures: &mut Figures) -> Result<(), Failure> {
    let place = world
        .traffic
        .decide(|rng| rng.random_range(0..world.agents.len()));
    let keeps_copy = world.traffic.decide(|rng| rng.random_bool(0.5));
    let name = world.agents[place].name.clone();
    let (operator, history) = (world.server.operator(), world.plan.history.clone());
    world.agents[place].stop();
    let folder = world.server.scratch().join(format!("copy-{number}"));
    let original = world.agents[place].state.clone();
    block_in_place(|| agent::copy_folder(&original, &folder)).map_err(failed)?;
    let witness = world
        .server
        .scratch()
        .join(format!("witness-copy-{number}"));
    let witness = Witness::place(witness, &folder).map_err(failed)?;
    history.note(format_args!("copied {name}"));
    // The original has to connect once more; without that the two cannot be told apart.
    world.agents[place].start_again();
    operator.online(&name).await;
    if !keeps_copy {
        world.deploy().await;
        let _ = world.settle().await?;
    }
    let mut copy = world.agents[place].start_copy(&folder);
    conflicted(world, &name).await;
    history.note(format_args!("the copy of {name} was noticed"));
    // Heartbeats of both go on; commands wait.
    let before = world.witness(&name).size();
    let bundle = world.traffic.bundle();
    let order = world.traffic.deploy_bundle(&bundle, vec![name.clone()]);
    let order = order.await.ok_or_else(|| Failure::new("no order taken"))?;
    let last = operator.device(&name).await.last_seen;
    operator
        .device_where(&name, "to be heard of", |device| device.last_seen != last)
        .await;
    if world.witness(&name).size() != before || witness.size() != 0 {
        return Err(Failure::new(format!("a copy of {name} ran {order}")).with_dump(world.dump()));
    }
    // One of the two is switched off. The operator resolves the conflict once the other one is
    // seen again.
    let (kept, other) = if keeps_copy {
        (&mut copy, &mut world.agents[place])
    } else {
        (&mut world.agents[place], &mut copy)
    };
    other.stop();
    kept.stop();
    let before = kept.session();
    kept.start_again();
    wait_for("the copy to keep to have a session", || {
        let session = kept.session();
        async move { seen(session.is_some() && session != before, session) }
    })
    .await;
    // Only a session that was confirmed has heartbeats.
    let last = operator.device(&name).await.last_seen;
    operator
        .device_where(&name, "to be heard of", |device| device.last_seen != last)
        .await;
    if keeps_copy {
        if witness.size() != 0 {
            return Err(Failure::new(format!("the copy of {name} ran something")));
        }
        // From now on its scripts count as the device's.
        world.witness(&name).follow(&copy.state).map_err(failed)?;
    }
    resolve(world, &name).await?;
    let (kept, other) = if keeps_copy {
        (&mut copy, &mut world.agents[place])
    } else {
        (&mut world.agents[place], &mut copy)
    };
    // The copy that lost is refused, and the device does not notice. Only its log tells that it
    // was refused for this and not for something else.
    let log = other.process().log().len();
    other.start_again();
    wait_for("the other copy to be refused", || {
        let text = other.process().log();
        let refused = text[log..].contains("was given up");
        async move { seen(refused, ()) }
    })
    .await;
    other.stop();
    if kept.has_ended() {
        return Err(Failure::new(format!("the kept copy of {name} ended")));
    }
    if operator.online(&name).await.status() != DeviceStatus::Online {
        return Err(Failure::new(format!("{name} is conflicted again")));
    }
    if keeps_copy {
        figures.count("copies kept", 1);
        std::mem::swap(&mut world.agents[place], &mut copy);
    } else if witness.size() != 0 {
        return Err(Failure::new(format!("the copy of {name} ran something")));
    }
    figures.count("copies", 1);
    Ok(())
}

async fn conflicted(world: &World, name: &str) {
    let is = |device: &kernex_proto::v1::Device| device.status() == DeviceStatus::Conflicted;
    world
        .server
        .operator()
        .device_where(name, "to be conflicted", is)
        .await;
}

async fn resolve(world: &World, name: &str) -> Result<(), Failure> {
    let request = ResolveDeviceRequest {
        device: name.to_owned(),
        ..Default::default()
    };
    let mut devices = world.server.operator().devices();
    let resolved = devices.resolve_device(request).await;
    resolved.map_err(|status| Failure::new(format!("{name} was not resolved: {status}")))?;
    world.plan.history.note(format_args!("resolved {name}"));
    Ok(())
}

/// All clocks jump a year, one way and the other, while deployments flow; and back.
async fn clocks(world: &mut World, file: &Path, figures: &mut Figures) -> Result<(), Failure> {
    let mut jumps = [YEAR, -YEAR];
    if world.traffic.decide(|rng| rng.random()) {
        jumps.reverse();
    }
    let load = Workload::begin(world, 2);
    for jump in jumps {
        for seconds in [jump, 0] {
            let millis = world.traffic.decide(|rng| rng.random_range(500..3000));
            sleep(Duration::from_millis(millis)).await;
            fs::write(file, seconds.to_string()).map_err(failed)?;
            world
                .plan
                .history
                .note(format_args!("clocks are off by {seconds} s"));
        }
        figures.count("jumps of the clocks", 1);
    }
    load.end(world, figures).await?;
    let log = world.server.process().log();
    if log.matches("the clock jumped").count() < log.matches("the clock is back").count() {
        return Err(Failure::new("the server did not say that the clock jumped"));
    }
    Ok(())
}

/// The server's folder and database are copied, the fleet goes on, and the server is put back to
/// the copies.
async fn restore(world: &mut World, figures: &mut Figures) -> Result<(), Failure> {
    let load = Workload::begin(world, 2);
    pause(world).await;
    load.end(world, figures).await?;
    let backup = world.server.back_up().await.map_err(failed)?;
    world.plan.history.note("made a backup");
    let known = world.traffic.orders();
    // Deployments from before the backup are still in flight now.
    let load = Workload::begin(world, 2);
    pause(world).await;
    load.end(world, figures).await?;
    world.server.restore(&backup).await.map_err(failed)?;
    let forgotten = world.traffic.orders().split_off(known.len());
    world.plan.history.note(format_args!(
        "restored the backup; {} orders are forgotten",
        forgotten.len()
    ));
    figures.count("orders forgotten", forgotten.len());
    world.forget(forgotten);
    world.server.start_again().await;
    world.all_back().await?;
    let _ = world.settle().await?;
    // The server learns from its devices what it has forgotten, before anything new is ordered.
    world.known_again().await?;
    // One more bundle of every name everywhere, so that scripts of forgotten orders end before the
    // check.
    let devices: Vec<String> = world
        .agents
        .iter()
        .map(|agent| agent.name.clone())
        .collect();
    for bundle in world.traffic.one_of_each() {
        let _ = world.traffic.deploy_bundle(&bundle, devices.clone()).await;
    }
    figures.count("restores", 1);
    Ok(())
}

async fn pause(world: &World) {
    let millis = world.traffic.decide(|rng| rng.random_range(1000..3000));
    sleep(Duration::from_millis(millis)).await;
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new(format!("a file of the harness failed: {error}"))
}
