//! Bundles in bulk: up to the server and down to one device or many.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use kernex_integration_tests::{
    bundle,
    fleet::{DeployBehaviour, Received, Windows},
    samples::mib,
};
use kernex_proto::{
    CHUNK_SIZE, DEVICE_ID_KEY, SESSION_TOKEN_KEY,
    v1::{DownloadBundleRequest, UploadBegin},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Bench, Row,
    machine::Usage,
    nginx::Nginx,
    report::{Goal, Side, Work},
    subject::{LIMIT, Subject},
};

const DOWNLOAD: &str = "/kernex.v1.AgentService/DownloadBundle";

/// Source addresses of downloads, beyond those of any fleet.
const BESIDE: usize = 100_000;

/// Devices that fetch at once.
const MANY: usize = 64;

/// Megabytes each of them fetches.
const SMALL: usize = 4;

/// Measures uploads and downloads, both sides in turn on servers that stay.
pub(crate) async fn run(bench: &mut Bench, rows: &[Row]) -> anyhow::Result<()> {
    let sides = [
        Subject::start(bench, Side::Kernex, MANY).await?,
        Subject::start(bench, Side::Reference, MANY).await?,
    ];
    let scratch = tempfile::tempdir()?;
    let large = bench.count(256, 16);
    let rounds = bench.transfer_rounds;
    if rows.contains(&Row::Upload) {
        for round in 0..rounds {
            // Each bundle is new, because one that the server has already costs nothing.
            let bytes = make(scratch.path(), &format!("up-{round}"), large).await?;
            for side in &sides {
                upload(bench, side, &bytes).await?;
            }
        }
    }
    if rows.contains(&Row::Download) {
        let one = make(scratch.path(), "large", large).await?;
        let many = make(scratch.path(), "small", SMALL).await?;
        // Their sessions stay open: a token is good only while its session lasts.
        let mut fleets = Vec::new();
        for side in &sides {
            let (fleet, received) = side.fleet(DeployBehaviour::Accept)?;
            fleet.all_online(LIMIT).await;
            fleets.push((fleet, received));
        }
        let nginx = match &bench.against {
            // Two builds are compared with each other alone.
            Some(_) => None,
            None => Nginx::start(bench, &sides[1].folder()).await?,
        };
        if nginx.is_none() && bench.against.is_none() {
            bench
                .report
                .note("nginx is not installed here: downloads are not held against it.");
        }
        for (bytes, agents) in [(one, 1), (many, MANY)] {
            let mut ready = Vec::new();
            if let Some(nginx) = &nginx {
                nginx.put("bundle", &bytes);
            }
            for (side, (_, received)) in sides.iter().zip(&mut fleets) {
                ready.push(Downloads::prepare(side, received, &bytes, agents).await?);
            }
            for _ in 0..rounds {
                for downloads in &ready {
                    downloads.measure(bench, nginx.is_some()).await?;
                }
                if let Some(nginx) = &nginx {
                    plain(bench, nginx, length(&bytes), agents).await?;
                }
            }
        }
    }
    Ok(())
}

/// A bundle nobody has seen, in memory.
async fn make(folder: &Path, name: &str, megabytes: usize) -> anyhow::Result<Vec<Bytes>> {
    let path = folder.join(name);
    bundle::write_large(&path, name, megabytes, "true").await?;
    let bytes = Bytes::from(tokio::fs::read(&path).await?);
    tokio::fs::remove_file(&path).await?;
    let pieces = (0..bytes.len()).step_by(CHUNK_SIZE);
    let piece = |at| bytes.slice(at..bytes.len().min(at + CHUNK_SIZE));
    Ok(pieces.map(piece).collect())
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

async fn upload(bench: &mut Bench, subject: &Subject, pieces: &[Bytes]) -> anyhow::Result<()> {
    let size = length(pieces);
    let stream = tokio_stream::iter(pieces.to_vec());
    let meter = Meter::start(subject.usage);
    let sent = subject
        .operator
        .try_push_stream(UploadBegin::default(), stream);
    let stored = sent.await?;
    anyhow::ensure!(
        stored.size_bytes == size,
        "the server stored another size: {stored:?}"
    );
    let name = format!("upload {:.0} MiB", mib(size));
    let goal = Goal::RatioAtLeast(0.7);
    meter.stop(bench, subject.side, &name, size, goal).await;
    Ok(())
}

/// Devices of one side that are allowed to fetch a bundle.
struct Downloads<'a> {
    subject: &'a Subject,
    digest: String,
    size: u64,
    granted: Vec<Received>,
}

impl<'a> Downloads<'a> {
    async fn prepare(
        subject: &'a Subject,
        received: &mut mpsc::UnboundedReceiver<Received>,
        pieces: &[Bytes],
        agents: usize,
    ) -> anyhow::Result<Self> {
        let stream = tokio_stream::iter(pieces.to_vec());
        let stored = subject
            .operator
            .try_push_stream(UploadBegin::default(), stream);
        let digest = stored.await?.digest;
        let mut granted = Vec::new();
        for agent in 0..agents {
            subject.push(&digest, agent).await?;
            let arrived = tokio::time::timeout(LIMIT, received.recv()).await?;
            granted.push(arrived.ok_or_else(|| anyhow::anyhow!("the fleet is gone"))?);
        }
        Ok(Self {
            subject,
            digest,
            size: length(pieces),
            granted,
        })
    }

    async fn measure(&self, bench: &mut Bench, with_nginx: bool) -> anyhow::Result<()> {
        let mut wires = Vec::new();
        for grant in &self.granted {
            let connector = self.subject.connector.with(Windows::BULK);
            // From addresses beside the ones their sessions came from.
            wires.push(connector.connect(BESIDE + grant.agent).await?);
        }
        let meter = Meter::start(self.subject.usage);
        let mut fetching = JoinSet::new();
        for (mut wire, grant) in wires.into_iter().zip(&self.granted) {
            let device = self.subject.roster.identities[grant.agent].device;
            let metadata = [
                (DEVICE_ID_KEY, device.to_string()),
                (SESSION_TOKEN_KEY, grant.session_token.clone()),
            ];
            let request = DownloadBundleRequest {
                digest: self.digest.clone(),
                offset: 0,
            };
            fetching.spawn(async move {
                let calls = wire.calls.clone();
                let fetch = async {
                    let (mut up, mut down) = calls.open(DOWNLOAD, &metadata).await?;
                    up.send(&request)?;
                    up.finish()?;
                    let mut total = 0;
                    loop {
                        match down.skip().await? {
                            0 => return Ok(total),
                            more => total += more as u64,
                        }
                    }
                };
                wire.during(fetch).await
            });
        }
        while let Some(fetched) = fetching.join_next().await {
            // Framing comes on top of the bundle.
            let fetched = fetched??;
            anyhow::ensure!(fetched >= self.size, "only {fetched} bytes came");
        }
        let name = downloaded(self.size, self.granted.len());
        let total = self.size * self.granted.len() as u64;
        let side = self.subject.side;
        let speed = meter
            .stop(bench, side, &name, total, Goal::RatioAtLeast(0.9))
            .await;
        if with_nginx && side == Side::Kernex {
            bench
                .report
                .add(side, &against_nginx(&name, self.size), speed);
        }
        Ok(())
    }
}

/// The same bytes from nginx.
async fn plain(bench: &mut Bench, nginx: &Nginx, size: u64, agents: usize) -> anyhow::Result<()> {
    let mut wires = Vec::new();
    for agent in 0..agents {
        let connector = nginx.connector.with(Windows::BULK);
        wires.push(connector.connect(BESIDE + agent).await?);
    }
    let begun = Instant::now();
    let mut fetching = JoinSet::new();
    for mut wire in wires {
        fetching.spawn(async move {
            let calls = wire.calls.clone();
            wire.during(calls.get("bundle")).await
        });
    }
    while let Some(fetched) = fetching.join_next().await {
        let fetched = fetched??;
        anyhow::ensure!(fetched as u64 == size, "only {fetched} bytes came");
    }
    let total = size * agents as u64;
    let speed = mib(total) / begun.elapsed().as_secs_f64();
    let name = downloaded(size, agents);
    bench
        .report
        .add(Side::Reference, &against_nginx(&name, size), speed);
    Ok(())
}

fn downloaded(size: u64, count: usize) -> String {
    format!("download {:.0} MiB to {count}", mib(size))
}

/// The row that holds a speed against nginx: one large file counts more than many small ones.
fn against_nginx(name: &str, size: u64) -> Work {
    let least = if size > (64 << 20) { 0.6 } else { 0.8 };
    Work::new(
        format!("{name}: speed, against nginx"),
        "MiB/s",
        Goal::RatioAtLeast(least),
    )
}

/// Time, processor time and memory of one transfer.
struct Meter {
    usage: Usage,
    begun: Instant,
    cpu: Duration,
    peak: Peak,
}

impl Meter {
    fn start(usage: Usage) -> Self {
        let peak = Peak::watch(usage);
        Self {
            usage,
            begun: Instant::now(),
            cpu: usage.cpu(),
            peak,
        }
    }

    /// Adds what `bytes` took; returns the speed.
    async fn stop(self, bench: &mut Bench, side: Side, name: &str, bytes: u64, goal: Goal) -> f64 {
        let took = self.begun.elapsed().as_secs_f64();
        let used = self.usage.cpu().saturating_sub(self.cpu).as_secs_f64();
        let memory = mib(self.peak.stop().await);
        let speed = mib(bytes) / took;
        for (what, unit, goal, value) in [
            ("speed", "MiB/s", goal, speed),
            (
                "processor",
                "s/GiB",
                Goal::Shown,
                used * 1024.0 / mib(bytes),
            ),
            ("peak memory on top", "MiB", Goal::Shown, memory),
        ] {
            let work = Work::new(format!("{name}: {what}"), unit, goal);
            bench.report.add(side, &work, value);
        }
        speed
    }
}

/// The most memory a process holds beyond what it held at first.
struct Peak {
    stop: Arc<AtomicBool>,
    looking: tokio::task::JoinHandle<u64>,
}

impl Peak {
    fn watch(usage: Usage) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let before = usage.memory();
        let looking = tokio::task::spawn_blocking(move || {
            let mut most = before;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(usage.memory());
                std::thread::sleep(Duration::from_millis(20));
            }
            most.max(usage.memory()) - before
        });
        Self { stop, looking }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.await.unwrap_or(0)
    }
}
