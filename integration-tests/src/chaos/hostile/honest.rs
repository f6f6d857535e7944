//! Honest users: light agents, and an operator who deploys to one after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use kernex_proto::v1::CreateDeploymentRequest;
use tokio::{sync::mpsc, time::sleep};

use super::{mib, soon};
use crate::{
    Database, Fleet, Operator, ServerOptions, TestServer,
    chaos::Failure,
    fleet::{Connector, CounterSnapshot, Options, Received, Roster},
    http::HttpClient,
    server::free_port,
};

/// Interval between two looks at the server.
const LOOK: Duration = Duration::from_millis(100);

/// Pause between two deployments; pipelines deploy as fast as this.
const ORDER: Duration = Duration::from_millis(20);

/// Limit for the first connections; no promise is about these.
const PATIENCE: Duration = Duration::from_secs(600);

/// The server, its fleet, and its operator.
pub(super) struct HonestFleet {
    pub(super) server: Arc<TestServer>,
    pub(super) connector: Connector,
    operator: Operator,
    fleet: Fleet,
    received: mpsc::UnboundedReceiver<Received>,
    devices: Vec<String>,
    bundle: String,
    probes: HttpClient,
    next: usize,
}

/// What was measured while honest users worked.
pub(super) struct Measured {
    /// The wait of all but one in a hundred pushes, from the order to the device.
    pub(super) wait: Duration,
    /// The most memory the server held, in bytes.
    pub(super) memory: u64,
    /// Bytes its log grew by.
    pub(super) log: u64,
}

impl HonestFleet {
    pub(super) async fn start(database: Database, devices: usize) -> Result<Self, Failure> {
        let probes = HttpClient::at(free_port());
        let options = ServerOptions::default()
            .env("KERNEX_HEARTBEAT_INTERVAL", "10s")
            .env("KERNEX_METRICS_LISTEN", probes.address())
            .env("RUST_LOG", "info");
        let server = Arc::new(TestServer::start_with(database, options).await);
        let roster = Roster::enrol(&server, devices).await;
        let connector = Connector::to(&server);
        let (sender, received) = mpsc::unbounded_channel();
        let options = Options {
            spread: Duration::from_millis(devices as u64 * 4),
            ..Options::default()
        };
        let fleet = Fleet::start_watched(connector.clone(), &roster, options, Some(sender));
        let fleet = fleet.map_err(|error| Failure::new(error.to_string()))?;
        fleet.all_online(PATIENCE).await;
        let operator = server.operator();
        let bundle = operator.push_script("honest", "1.0", "true").await.digest;
        Ok(Self {
            connector,
            operator,
            fleet,
            received,
            devices: roster.identities.iter().map(|it| it.name.clone()).collect(),
            bundle,
            probes,
            next: 0,
            server,
        })
    }

    /// Works for a while. Whatever is refused, lost or not ready is a failure.
    pub(super) async fn work(&mut self, time: Duration) -> Result<Measured, Failure> {
        let end = Instant::now() + time;
        let (before, said) = (self.fleet.counters().tally(), self.log_length());
        let mut waits =
            Histogram::<u64>::new(3).map_err(|error| Failure::new(error.to_string()))?;
        let watching = watch(self.probes, self.server.process().pid(), end);
        let pushing = async {
            while Instant::now() < end || waits.is_empty() {
                let wait = push(
                    &self.operator,
                    &self.bundle,
                    &self.devices[self.next % self.devices.len()],
                    &mut self.received,
                );
                let wait = soon("an honest push", wait).await??;
                let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
                let recorded = waits.record(micros);
                recorded.map_err(|error| Failure::new(error.to_string()))?;
                self.next += 1;
                sleep(ORDER).await;
            }
            Ok::<_, Failure>(())
        };
        let (memory, pushed) = tokio::join!(watching, pushing);
        pushed.map_err(|failure| self.with_log(failure))?;
        let memory = memory.map_err(|failure| self.with_log(failure))?;
        let after = self.fleet.counters().tally();
        if ended(&after) > ended(&before) {
            return Err(self.failed(format!("honest devices were refused or lost: {after:?}")));
        }
        Ok(Measured {
            wait: Duration::from_micros(waits.value_at_quantile(0.99)),
            memory,
            log: self.log_length().saturating_sub(said),
        })
    }

    /// Bytes of memory the server holds.
    pub(super) fn memory(&self) -> u64 {
        anonymous(self.server.process().pid())
    }

    /// Waits until the server holds no more than `most` and is ready.
    pub(super) async fn recovers(
        &self,
        attack: &str,
        most: u64,
        limit: Duration,
    ) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.memory() <= most && self.probes.get("/readyz").await.status == 200 {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(self.failed(format!(
            "{attack}: {limit:?} later the server holds {:.0} MiB, {:.0} are allowed",
            mib(self.memory()),
            mib(most)
        )))
    }

    /// A failure with what the server said last.
    pub(super) fn failed(&self, what: String) -> Failure {
        self.with_log(Failure::new(what))
    }

    pub(super) fn with_log(&self, failure: Failure) -> Failure {
        failure.with_dump(self.server.process().tail())
    }

    fn log_length(&self) -> u64 {
        self.server.process().said()
    }
}

/// Sessions that did not go as they should.
fn ended(tally: &CounterSnapshot) -> u64 {
    tally.refused + tally.failed + tally.lost + tally.repeated + tally.late + tally.not_applied
}

/// Orders a deploy and waits until the device has it.
async fn push(
    operator: &Operator,
    bundle: &str,
    device: &str,
    received: &mut mpsc::UnboundedReceiver<Received>,
) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let request = CreateDeploymentRequest {
        bundle: bundle.to_owned(),
        device_names: vec![device.to_owned()],
        ..Default::default()
    };
    let ordered = operator.deploy_for(request).await;
    ordered.map_err(|status| Failure::new(format!("an honest order was refused: {status}")))?;
    let arrived = received.recv().await;
    let arrived = arrived.ok_or_else(|| Failure::new("the fleet is gone"))?;
    Ok(arrived.at.saturating_duration_since(begun))
}

/// Looks at the server until `end`; the most memory it held. It has to be ready all the time.
async fn watch(probes: HttpClient, pid: u32, end: Instant) -> Result<u64, Failure> {
    let mut most = 0;
    loop {
        most = most.max(anonymous(pid));
        let answer = soon("/readyz", probes.get("/readyz")).await?;
        if answer.status != 200 {
            return Err(Failure::new(format!(
                "/readyz answers {}: {}",
                answer.status, answer.body
            )));
        }
        if Instant::now() > end {
            return Ok(most);
        }
        sleep(LOOK).await;
    }
}

/// Anonymous resident memory of a process, in bytes; 0 when it is gone.
fn anonymous(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|rest| {
        rest.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}
