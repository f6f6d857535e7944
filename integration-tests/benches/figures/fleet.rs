//! Everything that is measured with a whole fleet connected: idle sessions, heartbeats, push,
//! fan-out and the storm of all coming back. A round starts a server afresh, so that both sides age
//! alike.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kernex_integration_tests::{
    BundleBuilder, Fleet,
    fleet::{DeployBehaviour, HeartbeatPace, Received},
    wait::{seen, wait_for_within},
};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    Bench, Row,
    commits::{self, Commits},
    report::{Goal, Side, Work},
    subject::{LIMIT, Subject},
};

/// A fleet that is connected to one side.
struct Round<'a> {
    bench: &'a mut Bench,
    subject: Subject,
    fleet: Fleet,
    received: mpsc::UnboundedReceiver<Received>,
    digest: String,
}

/// Measures the chosen rows with `agents` around, both sides in turn.
pub(crate) async fn run(bench: &mut Bench, rows: &[Row], agents: usize) -> anyhow::Result<()> {
    for _ in 0..bench.rounds {
        for side in Side::BOTH {
            Box::pin(round(bench, rows, agents, side)).await?;
        }
    }
    Ok(())
}

async fn round(bench: &mut Bench, rows: &[Row], agents: usize, side: Side) -> anyhow::Result<()> {
    let subject = Subject::start(bench, side, agents).await?;
    let digest = if subject.server().is_some() {
        let archive = BundleBuilder::script("light", "1.0", "true").gzip().await;
        subject.operator.push(&archive).await.digest
    } else {
        "0".repeat(64)
    };
    let empty = subject.usage.memory();
    let (fleet, received) = subject.fleet(DeployBehaviour::Succeed)?;
    fleet.all_online(LIMIT).await;
    let mut round = Round {
        bench,
        subject,
        fleet,
        received,
        digest,
    };
    for row in rows {
        match row {
            Row::Sessions => round.idle(empty).await,
            Row::Heartbeats => round.heartbeats().await,
            Row::Push => round.push().await?,
            Row::FanOut => round.fan_out().await?,
            Row::Storm => round.storm().await,
            _ => {}
        }
    }
    round.quiet().await
}

impl Round<'_> {
    fn add(&mut self, what: &str, unit: &'static str, goal: Goal, value: f64) {
        let name = format!("{what}, {} sessions", self.fleet.agents());
        let work = Work::new(name, unit, goal);
        self.bench.report.add(self.subject.side, &work, value);
    }

    /// Processor time the server uses during `time`.
    async fn cpu_during(&self, time: Duration) -> Duration {
        let before = self.subject.usage.cpu();
        sleep(time).await;
        self.subject.usage.cpu().saturating_sub(before)
    }

    /// Checks that nothing went wrong while it was measured.
    async fn quiet(self) -> anyhow::Result<()> {
        let all = self.fleet.agents() as u64;
        wait_for_within(LIMIT, "every outcome to be acknowledged", || async {
            let tally = self.fleet.counters().tally();
            seen(
                tally.online == all && tally.outcomes == tally.deploys,
                tally,
            )
        })
        .await;
        let tally = self.fleet.counters().tally();
        anyhow::ensure!(
            tally.repeated + tally.late + tally.not_applied == 0,
            "the fleet saw what must not be: {tally:?}"
        );
        Ok(())
    }

    async fn idle(&mut self, empty: u64) {
        // Buffers of the handshakes are given back, and the first pings are through.
        sleep(
            self.bench
                .time(Duration::from_secs(25), Duration::from_secs(1)),
        )
        .await;
        let held = self.subject.usage.memory().saturating_sub(empty);
        let each = held as f64 / 1024.0 / self.fleet.agents() as f64;
        self.add(
            "memory of an idle session",
            "KiB",
            Goal::RatioAtMost(1.0),
            each,
        );
        let time = self
            .bench
            .time(Duration::from_secs(60), Duration::from_secs(2));
        let used = self.cpu_during(time).await;
        // The goal stands for ten thousand sessions.
        let goal = match self.fleet.agents() {
            10_000 => Goal::AtMost(1.5),
            _ => Goal::Shown,
        };
        let percent = 100.0 * used.as_secs_f64() / time.as_secs_f64();
        self.add("processor use when idle", "% of a core", goal, percent);
    }

    async fn heartbeats(&mut self) {
        let time = self
            .bench
            .time(Duration::from_secs(15), Duration::from_secs(2));
        self.fleet.pace(HeartbeatPace::Closed);
        sleep(time / 5).await;
        let (before, cpu) = (self.acknowledged(), self.subject.usage.cpu());
        sleep(time).await;
        let done = (self.acknowledged() - before) as f64;
        let used = self.subject.usage.cpu().saturating_sub(cpu).as_secs_f64();
        self.fleet.pace(HeartbeatPace::Never);
        self.add(
            "heartbeats per server core, closed loop",
            "1/s",
            Goal::RatioAtLeast(0.85),
            done / used.max(0.01),
        );
        // About 5,000 a second, however many they are.
        let interval = Duration::from_micros(200) * u32::try_from(self.fleet.agents()).unwrap_or(1);
        self.fleet.pace(HeartbeatPace::Every(interval));
        sleep(interval).await;
        let _warm = self.fleet.counters().heartbeat.take();
        let before = self.acknowledged();
        let used = self.cpu_during(time).await;
        let done = (self.acknowledged() - before) as f64;
        self.fleet.pace(HeartbeatPace::Never);
        let latencies = self.fleet.counters().heartbeat.take();
        self.add(
            "processor time per heartbeat, 5,000/s",
            "us",
            Goal::RatioAtMost(1.3),
            used.as_secs_f64() * 1e6 / done.max(1.0),
        );
        self.add(
            "heartbeat to its acknowledgement, p99, 5,000/s",
            "us",
            Goal::Shown,
            latencies.value_at_quantile(0.99) as f64,
        );
        sleep(Duration::from_millis(1500)).await;
    }

    fn acknowledged(&self) -> u64 {
        self.fleet.counters().tally().heartbeat_acks
    }

    async fn push(&mut self) -> anyhow::Result<()> {
        let mut called = Histogram::<u64>::new(3)?;
        let mut committed = Histogram::<u64>::new(3)?;
        let mut commits = self.subject.server().and_then(Commits::of);
        let samples = self.bench.count(500, 30);
        for number in 0..samples + samples / 10 {
            let agent = rand::random_range(0..self.fleet.agents());
            while self.received.try_recv().is_ok() {}
            let watched = commits.as_mut().map(Commits::watch);
            let begun = Instant::now();
            let (pushed, arrived) =
                tokio::join!(self.subject.push(&self.digest, agent), self.received.recv());
            pushed?;
            let arrived = arrived.ok_or_else(|| anyhow::anyhow!("the fleet is gone"))?;
            let commit = watched.and_then(|watched| watched.join().ok().flatten());
            self.settled().await;
            // The writes behind one push end before the next push.
            sleep(Duration::from_millis(25)).await;
            if number < samples / 10 {
                // The first ones only warm up.
                continue;
            }
            called.record(micros(arrived.at - begun))?;
            let since = if self.subject.server().is_some() {
                commit.and_then(|commit| arrived.at.checked_duration_since(commit))
            } else {
                // Bare tonic commits nothing; the path is the same.
                Some(arrived.at - begun)
            };
            if let Some(since) = since {
                committed.record(micros(since))?;
            }
        }
        if !committed.is_empty() {
            for (quantile, what, most) in [
                (0.5, "push: commit to agent, p50", 1.3),
                (0.99, "push: commit to agent, p99", 1.5),
            ] {
                let value = committed.value_at_quantile(quantile) as f64;
                self.add(what, "us", Goal::RatioAtMost(most), value);
            }
        }
        for (quantile, what) in [
            (0.5, "push: called to agent, p50"),
            (0.99, "push: called to agent, p99"),
        ] {
            let value = called.value_at_quantile(quantile) as f64;
            self.add(what, "us", Goal::Shown, value);
        }
        let mut own = called.value_at_quantile(0.99) as f64;
        if let Some(server) = self.subject.server() {
            let folder = self.subject.folder();
            let durable = commits::durable(server.database_url(), &folder, samples).await?;
            let commit = durable.value_at_quantile(0.5) as f64;
            self.add(
                "one durable commit of the same database, p50",
                "us",
                Goal::Shown,
                commit,
            );
            own -= commit;
        }
        self.add(
            "push: called to agent, p99, less one durable commit",
            "us",
            Goal::RatioAtMost(2.0),
            own,
        );
        Ok(())
    }

    /// Waits until every deploy's outcome is acknowledged, looking often.
    async fn settled(&self) {
        let limit = Instant::now() + LIMIT;
        loop {
            let tally = self.fleet.counters().tally();
            if tally.outcomes == tally.deploys {
                return;
            }
            assert!(Instant::now() < limit, "outcomes are missing: {tally:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn fan_out(&mut self) -> anyhow::Result<()> {
        while self.received.try_recv().is_ok() {}
        let begun = Instant::now();
        self.subject.push_all(&self.digest).await?;
        let mut last = begun;
        for _ in 0..self.fleet.agents() {
            let received = tokio::time::timeout(LIMIT, self.received.recv()).await?;
            let received = received.ok_or_else(|| anyhow::anyhow!("the fleet is gone"))?;
            last = last.max(received.at);
        }
        self.settled().await;
        let done = begun.elapsed();
        self.add(
            "fan-out: called to last agent",
            "ms",
            Goal::RatioAtMost(1.6),
            (last - begun).as_secs_f64() * 1e3,
        );
        self.add(
            "fan-out: called to all outcomes committed",
            "ms",
            Goal::RatioAtMost(4.0),
            done.as_secs_f64() * 1e3,
        );
        Ok(())
    }

    async fn storm(&mut self) {
        let all = self.fleet.agents() as u64;
        let opened = self.fleet.counters().tally().opened;
        let _before = self.fleet.counters().opening.take();
        let (begun, cpu) = (Instant::now(), self.subject.usage.cpu());
        self.fleet.cut();
        wait_for_within(LIMIT, "the fleet to be back", || async {
            let tally = self.fleet.counters().tally();
            seen(tally.opened >= opened + all && tally.online == all, tally)
        })
        .await;
        let took = begun.elapsed();
        let used = self.subject.usage.cpu().saturating_sub(cpu).as_secs_f64();
        // As sessions per second of processor time, so that more is better.
        self.add(
            "reconnect storm: sessions per second of server processor",
            "1/s",
            Goal::RatioAtLeast(0.8),
            all as f64 / used.max(0.01),
        );
        self.add(
            "reconnect storm: all back after",
            "s",
            Goal::Shown,
            took.as_secs_f64(),
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
