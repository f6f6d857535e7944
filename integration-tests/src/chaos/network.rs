//! A bad network between every agent and the server: cut, half-open, stalled, throttled, and torn
//! or garbled at any message, from the first byte of a TLS handshake to the last acknowledgement.
//!
//! Most of it goes through TLS, where a turned bit ends the connection and every promise has to
//! hold. Every fifth fault is a turned bit in a session without TLS, where what arrives may be
//! another valid message: there nobody can promise what was meant, but nothing may hang, fall over,
//! run twice for one target or be left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kernex_proto::v1::{
    AgentSettings, Configuration, GetDeviceConfigurationRequest, SetConfigurationRequest,
    configuration::Scope,
};
use rand::RngExt as _;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Response;

use super::{
    Failure, Figures, History, Plan, World, WorldOptions,
    checker::{self, Rule, SettledWorld},
    kills::{broken, keep_deploying, watch},
    rows::RawDatabase,
    traffic::Traffic,
};
use crate::{AgentOptions, Proxy, ServerOptions, TestAgent, proxy::Protocol};

mod fault;

use fault::Fault;

const DEVICES: usize = 8;

/// Faults before each check of the rules.
const ROUND: usize = 100;

/// Every so many faults, one is a flipped bit without TLS.
const PLAIN_SHARE: usize = 5;

/// Silence after which agents give a session up, instead of the half minute that suits real
/// networks. Far more than a loaded machine takes to answer: agents that give up on a server that
/// is only slow make it slower.
const SILENCE: Duration = Duration::from_secs(6);

/// An agent that has no session by then counts as hung.
const BACK_LIMIT: Duration = Duration::from_secs(60);

const BETWEEN_GLANCES: Duration = Duration::from_millis(50);

/// Rules that hold even when a flipped bit makes another valid message.
const STILL_HOLDS: [Rule; 4] = [
    Rule::OnceOnly,
    Rule::OneSession,
    Rule::CurrentComplete,
    Rule::NothingLeft,
];

/// Makes `plan.count` network faults and checks the rules after every round.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let start = Instant::now();
    let plain = plan.count / PLAIN_SHARE;
    let share = |name, count| Plan {
        count,
        history: plan.history.of_world(name),
        ..plan.clone()
    };
    let (encrypted, plain) = (share("tls", plan.count - plain), share("plain", plain));
    let (mut figures, more) = tokio::try_join!(
        Box::pin(in_one_world(&encrypted, Protocol::Tls)),
        Box::pin(in_one_world(&plain, Protocol::Http2)),
    )?;
    figures.merge(&more);
    let seconds = start.elapsed().as_secs_f64();
    figures.add("faults a second", figures.get("faults") / seconds);
    Ok(figures)
}

type Proxies = BTreeMap<String, Arc<Proxy>>;

async fn in_one_world(plan: &Plan, protocol: Protocol) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let (mut world, proxies) = start(plan, protocol).await?;
    let mut left = plan.count;
    let mut summary = None;
    while left > 0 {
        let faults = left.min(ROUND);
        left -= faults;
        round(&mut world, &proxies, protocol, faults, &mut figures).await?;
        match protocol {
            Protocol::Tls => summary = Some(world.verify(&mut figures).await?),
            Protocol::Http2 => judge_plain(&mut world, &mut figures).await?,
        }
    }
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

async fn start(plan: &Plan, protocol: Protocol) -> Result<(World, Proxies), Failure> {
    let mut server = ServerOptions::default();
    if protocol == Protocol::Http2 {
        server = server.plaintext();
    }
    let mut world = World::empty(plan, WorldOptions { server }).await;
    let folder = world.server.scratch().to_owned();
    let mut proxies = Proxies::new();
    for number in 1..=plan.devices.unwrap_or(DEVICES) {
        let proxy = Proxy::speaking(protocol, world.server.port()).await;
        let name = format!("edge-{number:02}");
        world
            .enrol(&folder, AgentOptions::named(&name).through(&proxy))
            .await?;
        proxies.insert(name, Arc::new(proxy));
    }
    world.online().await;
    shorten_silence(&world).await?;
    Ok((world, proxies))
}

async fn shorten_silence(world: &World) -> Result<(), Failure> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let configuration = Configuration {
        name: "impatient".to_owned(),
        scope: Some(Scope::Selector("*".to_owned())),
        settings: Some(AgentSettings {
            silence_timeout_ms: Some(millis(SILENCE)),
            ..AgentSettings::default()
        }),
        ..Configuration::default()
    };
    let request = SetConfigurationRequest {
        configuration: Some(configuration),
        ..SetConfigurationRequest::default()
    };
    let mut configurations = world.server.operator().configurations();
    let set = configurations.set_configuration(request).await;
    set.map_err(|status| Failure::new(format!("agents cannot be made impatient: {status}")))?;
    let mut became_impatient = async |agent: &TestAgent| loop {
        let request = GetDeviceConfigurationRequest {
            device: agent.name.clone(),
        };
        let found = configurations.get_device_configuration(request).await;
        let found = found.map_or_else(|_| Default::default(), Response::into_inner);
        let wanted = found.wanted.map_or(0, |wanted| wanted.revision);
        if wanted != 0 && found.active_revision == wanted {
            return;
        }
        sleep(BETWEEN_GLANCES).await;
    };
    for agent in &world.agents {
        let became = timeout(BACK_LIMIT, became_impatient(agent)).await;
        became.map_err(|_| {
            Failure::new("an agent did not become impatient").with_dump(agent.process().tail())
        })?;
    }
    Ok(())
}

async fn round(
    world: &mut World,
    proxies: &Proxies,
    protocol: Protocol,
    faults: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let agents = world.agents.len();
    let shares = world.traffic.decide(|rng| {
        let mut shares = vec![0; agents];
        for _ in 0..faults {
            shares[rng.random_range(0..agents)] += 1;
        }
        shares
    });
    let over = CancellationToken::new();
    let mut orders = JoinSet::new();
    orders.spawn(keep_deploying(world.traffic.clone(), over.clone()));
    let mut watching = JoinSet::new();
    watching.spawn(watch(
        RawDatabase::of(&world.server),
        std::mem::take(&mut world.closings),
        over.clone(),
    ));
    let mut hurting = JoinSet::new();
    for (agent, share) in world.agents.drain(..).zip(shares) {
        let victim = Victim {
            proxy: Arc::clone(&proxies[&agent.name]),
            agent,
            protocol,
            traffic: world.traffic.clone(),
            history: world.plan.history.clone(),
        };
        hurting.spawn(victim.hurt(share));
    }
    let mut hung = None;
    while let Some(hurt) = hurting.join_next().await {
        let (agent, counted) = hurt.map_err(broken)?;
        world.agents.push(agent);
        match counted {
            Ok(counted) => figures.merge(&counted),
            Err(failure) => hung = Some(failure),
        }
    }
    world.agents.sort_by(|a, b| a.name.cmp(&b.name));
    over.cancel();
    while let Some(deployed) = orders.join_next().await {
        figures.count("deployments", deployed.map_err(broken)?);
    }
    while let Some(closings) = watching.join_next().await {
        world.closings = closings.map_err(broken)?;
    }
    hung.map_or(Ok(()), Err)
}

/// One agent with its own proxy.
struct Victim {
    agent: TestAgent,
    proxy: Arc<Proxy>,
    protocol: Protocol,
    traffic: Traffic,
    history: History,
}

impl Victim {
    async fn hurt(self, faults: usize) -> (TestAgent, Result<Figures, Failure>) {
        let mut figures = Figures::default();
        for _ in 0..faults {
            let fault = self.traffic.decide(|rng| Fault::draw(rng, self.protocol));
            self.history
                .note(format_args!("{}: {fault:?}", self.agent.name));
            if let Err(failure) = self.suffer(fault, &mut figures).await {
                return (self.agent, Err(failure));
            }
            figures.count("faults", 1);
            figures.count(fault.name(self.protocol), 1);
            // Some faults meet an agent that is still starting.
            let millis = self.traffic.decide(|rng| match rng.random_ratio(1, 3) {
                true => 0,
                false => rng.random_range(0..600),
            });
            sleep(Duration::from_millis(millis)).await;
        }
        (self.agent, Ok(figures))
    }

    async fn suffer(&self, fault: Fault, figures: &mut Figures) -> Result<(), Failure> {
        let proxy = &*self.proxy;
        let before = self.agent.session();
        match fault {
            Fault::Cut { millis } => {
                proxy.cut();
                sleep(Duration::from_millis(millis)).await;
            }
            Fault::HalfOpen => proxy.abandon(),
            Fault::Stall { millis } => {
                proxy.stall();
                sleep(Duration::from_millis(millis)).await;
            }
            Fault::Throttle { rate, millis } => {
                proxy.throttle(rate);
                sleep(Duration::from_millis(millis)).await;
            }
            Fault::Message { trap, is_fresh } => {
                proxy.lay(trap);
                if is_fresh {
                    proxy.drop_links();
                }
                if timeout(BACK_LIMIT, proxy.sprung()).await.is_err() {
                    return Err(self.hangs(&format!("{fault:?}: no such message came")));
                }
            }
        }
        let lifted = Instant::now();
        proxy.heal();
        if fault.must_reconnect(self.protocol) {
            if !self.is_back(fault, before).await {
                return Err(self.hangs(&format!("after {fault:?} it did not come back")));
            }
            figures.slowest(
                &format!("return after {}", fault.name(self.protocol)),
                lifted.elapsed().as_secs_f64(),
            );
        }
        Ok(())
    }

    /// Waits for another session than the one before the fault. The message may have been one of a
    /// download, which has a connection of its own: then the session there was only has to hear the
    /// server. That is read from the agent's log, because nothing else tells it: the server knows
    /// what it sent, and not what arrived.
    async fn is_back(&self, fault: Fault, before: Option<u64>) -> bool {
        let process = self.agent.process();
        let lifted = process.said();
        let end = Instant::now() + BACK_LIMIT;
        while Instant::now() < end {
            let goes_on = matches!(fault, Fault::Message { .. })
                && process.has_said("acknowledged seq=", lifted);
            let session = self.agent.session();
            if goes_on || session.is_some() && session != before {
                return true;
            }
            sleep(BETWEEN_GLANCES).await;
        }
        false
    }

    fn hangs(&self, what: &str) -> Failure {
        let what = format!("{} hangs: {what} within {BACK_LIMIT:?}", self.agent.name);
        Failure::new(what).with_dump(self.agent.process().tail())
    }
}

/// Waits for rest and checks the rules that do not depend on the content of messages.
async fn judge_plain(world: &mut World, figures: &mut Figures) -> Result<(), Failure> {
    world.heal().await;
    world.online().await;
    let took = world.settle().await?;
    figures.slowest("settling without TLS", took.as_secs_f64());
    let logs = world.agents.iter().map(TestAgent::process);
    for process in logs.chain([world.server.process()]) {
        if process.has_said("panicked at", 0) {
            return Err(Failure::new("a program panicked").with_dump(process.tail()));
        }
    }
    let mut facts = world.facts().await?;
    figures.count("checks without TLS", 1);
    figures.count("devices that got commands for nobody", excuse(&mut facts));
    let Err(mut violations) = checker::check(&facts) else {
        return Ok(());
    };
    violations.retain(|violation| STILL_HOLDS.contains(&violation.rule));
    if violations.is_empty() {
        return Ok(());
    }
    Err(violations.into())
}

/// Removes the witness lines of commands for a target that does not exist: the target was garbled
/// on the way, and the right command came after it. Returns how many devices that concerns.
fn excuse(facts: &mut SettledWorld) -> usize {
    let ordered: BTreeSet<&str> = facts.targets.iter().map(|it| it.id.as_str()).collect();
    let misled = facts.devices.iter_mut().filter(|device| {
        let mut journal = device.journal.iter();
        journal.any(|it| !ordered.contains(it.target.as_str()))
    });
    misled.map(|device| device.witness.clear()).count()
}
