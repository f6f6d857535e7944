//! What the agent costs its device: memory, processor, disk and bytes on the wire.

use std::time::Duration;

use kernex_integration_tests::{
    AgentOptions, Proxy, ServerOptions, TestAgent, TestServer, binaries, wait::seen, wait_for,
};
use kernex_proto::v1::DeviceStatus;
use tokio::time::sleep;

use crate::{
    Bench,
    machine::{self, Usage},
    report::{Goal, Side, Work},
};

const DAY: f64 = 86_400.0;

/// Seconds between heartbeats of the day that is worked out.
const INTERVAL: f64 = 60.0;

/// Measures a real agent with a real server.
pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let time = bench.time(Duration::from_secs(60), Duration::from_secs(5));
    // Nothing but the server's pings, then a heartbeat a second on top.
    let pings = wire(bench, "1h", time).await?;
    let beating = wire(bench, "1s", time).await?;
    let beats = time.as_secs_f64();
    let each = beating.bytes.saturating_sub(pings.bytes) as f64 / beats;
    let day = pings.bytes as f64 / time.as_secs_f64() * DAY + each * DAY / INTERVAL;
    let mut add = |what: &str, unit, goal, value| {
        let work = Work::new(what, unit, goal);
        bench.report.add(Side::Kernex, &work, value);
    };
    let mib = f64::from(1 << 20);
    add(
        "agent: idle memory, resident with its program",
        "MiB",
        Goal::AtMost(12.0),
        pings.resident as f64 / mib,
    );
    add(
        "agent: idle memory, anonymous",
        "MiB",
        Goal::Shown,
        pings.memory as f64 / mib,
    );
    add(
        "agent: processor use when idle",
        "% of a core",
        Goal::Shown,
        100.0 * pings.cpu.as_secs_f64() / time.as_secs_f64(),
    );
    let size = machine::size(&binaries::path("kernex-agent")) as f64 / mib;
    add(
        "agent: size of the program",
        "MiB",
        Goal::AtMost(12.0),
        size,
    );
    add(
        "agent: a heartbeat and its acknowledgement",
        "bytes",
        Goal::Shown,
        each,
    );
    add(
        "agent: on the wire in an idle day at 60 s",
        "MiB",
        Goal::AtMost(1.0),
        day / mib,
    );
    Ok(())
}

struct Idle {
    bytes: u64,
    cpu: Duration,
    memory: u64,
    resident: u64,
}

/// What an agent with this time between heartbeats uses within `time`.
async fn wire(bench: &Bench, interval: &str, time: Duration) -> anyhow::Result<Idle> {
    let options = ServerOptions::default()
        .env("KERNEX_HEARTBEAT_INTERVAL", interval)
        .env("RUST_LOG", "info");
    let server = TestServer::start_with(bench.database, options).await;
    let proxy = Proxy::to(server.port()).await;
    let agent = TestAgent::enrol(&server, AgentOptions::named("edge").through(&proxy)).await;
    let operator = server.operator();
    wait_for("the agent to be online", || async {
        let device = operator.device(&agent.name).await;
        seen(device.status() == DeviceStatus::Online, device)
    })
    .await;
    // The opening is over and its buffers are given back.
    sleep(bench.time(Duration::from_secs(5), Duration::from_secs(1))).await;
    let usage = Usage::of(agent.process().pid());
    let (bytes, cpu) = (proxy.bytes(), usage.cpu());
    sleep(time).await;
    Ok(Idle {
        bytes: proxy.bytes() - bytes,
        cpu: usage.cpu().saturating_sub(cpu),
        memory: usage.memory(),
        resident: usage.resident(),
    })
}
