//! Attacks by strangers, by a viewer, by an operator and by a device of the fleet, each for a
//! while, beside honest light agents and an honest operator. Meanwhile others come for the first
//! time: an operator calls, a device enrols and opens a session, and its key is revoked.
//!
//! `count` is how many seconds an attack lasts. From [`WHOLE`] seconds on it comes in [`PAIRS`] of
//! calm and attack, and what honest pushes have to wait is judged by the median of the pairs. All
//! attacks but the last are bursts of a fifth of that time; the last one lasts all of it without a
//! break, so that the 15 s of strangers pass within it, and with 40 the 30 s of slow readers.
//! Below [`WHOLE`], as in CI, there is one pair, and only memory, refusals and readiness are
//! judged: a busy machine moves waits by more than an attack does.
//!
//! ```text
//! kernex-chaos run hostile --count 20    # 1,000 agents; takes some 35 minutes
//! kernex-chaos run hostile --count 40 --only watches
//! ```

mod attacks;
mod frames;
mod honest;
mod newcomers;
mod target;

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use self::{
    attacks::{ATTACKS, Attack},
    honest::{HonestFleet, Measured},
    newcomers::Newcomers,
    target::Target,
};
use super::{Failure, Figures, Plan};
use crate::samples::{median, mib};

/// From so many seconds on an attack is judged by what honest pushes have to wait, too.
pub const WHOLE: usize = 20;

/// Pairs of calm and attack, when waits are judged.
const PAIRS: u32 = 5;

/// Honest devices, when waits are judged and when they are not.
const DEVICES: (usize, usize) = (1000, 100);

/// Memory an attack may take on top of what the server holds in peace.
const MEMORY: u64 = 128 << 20;

/// How long the server may take to give that back.
const BACK: Duration = Duration::from_secs(30);

/// What an attack may add to the wait of an honest push where doubling it is less.
const WAIT: Duration = Duration::from_millis(50);

/// Bytes of log an attack may cause in a minute.
const LOG: f64 = 1024.0 * 1024.0;

/// The name of the figure: how long a session outlives the key of its device.
const REVOKED: &str = "a session ends after its key is revoked, ms";

/// Does each attack for `plan.count` seconds.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let wanted = |attack: &&Attack| {
        let only = plan.only.as_deref();
        only.is_none_or(|only| attack.name.contains(only))
    };
    let attacks: Vec<Attack> = ATTACKS.iter().filter(wanted).copied().collect();
    if attacks.is_empty() {
        return Err(Failure::new("no attack has that in its name"));
    }
    let whole = plan.count >= WHOLE;
    let usual = if whole { DEVICES.0 } else { DEVICES.1 };
    let pairs = if whole { PAIRS } else { 1 };
    let honest = HonestFleet::start(plan.database, plan.devices.unwrap_or(usual)).await?;
    let target = Arc::new(Target::new(&honest, whole).await?);
    let newcomers = attacks.len() * pairs as usize;
    let mut scene = Scene {
        newcomers: Newcomers::new(&honest, newcomers),
        honest,
        target,
        whole,
        pairs,
        lasts: Duration::from_secs(plan.count as u64),
        figures: Figures::default(),
    };
    for attack in &attacks {
        plan.history.note(attack.name);
        scene.endures(attack).await?;
    }
    scene.figures.count("attacks", attacks.len());
    Ok(scene.figures)
}

/// Everybody who takes part.
struct Scene {
    honest: HonestFleet,
    newcomers: Newcomers,
    target: Arc<Target>,
    whole: bool,
    pairs: u32,
    /// How long the last attack of each kind lasts.
    lasts: Duration,
    figures: Figures,
}

impl Scene {
    /// Endures every pair of one attack.
    async fn endures(&mut self, attack: &Attack) -> Result<(), Failure> {
        let name = attack.name;
        let burst = self.lasts / self.pairs;
        let (mut calm, mut attacked) = (Vec::new(), Vec::new());
        for pair in 1..=self.pairs {
            let lasts = if pair == self.pairs {
                self.lasts
            } else {
                burst
            };
            let before = self.honest.work(burst).await?;
            let memory = self.honest.memory();
            let during = self.attacked(attack, lasts).await?;
            let on_top = during.memory.saturating_sub(memory);
            self.figures
                .most(&format!("{name}: MiB on top"), mib(on_top));
            if on_top > MEMORY {
                return Err(self.honest.failed(format!(
                    "{name}: {:.0} MiB on top of {:.0}",
                    mib(on_top),
                    mib(memory)
                )));
            }
            self.honest
                .recovers(name, memory + MEMORY / 4, BACK)
                .await?;
            // Log lines of honest work do not count.
            let log = (a_minute(&during, lasts) - a_minute(&before, burst)).max(0.0);
            self.figures
                .most(&format!("{name}: KiB of log a minute"), log / 1024.0);
            if self.whole && log > LOG {
                return Err(self.honest.failed(format!(
                    "{name}: the log grows by {:.1} MiB a minute",
                    log / LOG
                )));
            }
            calm.push(before.wait.as_secs_f64());
            attacked.push(during.wait.as_secs_f64());
        }
        self.judge_waits(name, &calm, &attacked)
    }

    /// What honest users measure while they are attacked for so long.
    async fn attacked(&mut self, attack: &Attack, lasts: Duration) -> Result<Measured, Failure> {
        let mut attackers = JoinSet::new();
        for number in 0..attack.attackers {
            attackers.spawn((attack.run)(Arc::clone(&self.target), number));
        }
        // A task of its own: to prove that it holds its key takes a while, which is not to be
        // measured as a wait of others.
        let mut arriving = JoinSet::new();
        arriving.spawn(self.newcomers.next(lasts / 2)?);
        let during = self.honest.work(lasts).await;
        let arrived = arriving.join_next().await;
        let done = self.target.done();
        attackers.shutdown().await;
        let of_attack = |failure: Failure| Failure {
            what: format!("{}: {}", attack.name, failure.what),
            ..failure
        };
        let during = during.map_err(of_attack)?;
        let revoked = match arrived {
            Some(Ok(revoked)) => revoked.map_err(of_attack),
            _ => Err(Failure::new("the newcomer did not come")),
        };
        let revoked = revoked.map_err(|failure| self.honest.with_log(failure))?;
        self.figures.most(REVOKED, revoked.as_secs_f64() * 1e3);
        if done == 0 {
            return Err(Failure::new(format!("{}: nobody attacked", attack.name)));
        }
        Ok(during)
    }

    fn judge_waits(&mut self, name: &str, calm: &[f64], attacked: &[f64]) -> Result<(), Failure> {
        let (Some(calm), Some(attacked)) = (median(calm), median(attacked)) else {
            return Ok(());
        };
        self.figures
            .most(&format!("{name}: push p99 in peace, ms"), calm * 1e3);
        self.figures
            .most(&format!("{name}: push p99, ms"), attacked * 1e3);
        let most = (calm * 2.0).max(calm + WAIT.as_secs_f64());
        if self.whole && attacked > most {
            return Err(self.honest.failed(format!(
                "{name}: honest pushes wait {:.0} ms, {:.0} in peace",
                attacked * 1e3,
                calm * 1e3
            )));
        }
        Ok(())
    }
}

/// Bytes of log in a minute.
fn a_minute(measured: &Measured, time: Duration) -> f64 {
    measured.log as f64 * 60.0 / time.as_secs_f64()
}

/// The result of `work`, or a failure when it takes too long.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(Duration::from_secs(60), work)
        .await
        .map_err(|_| Failure::new(format!("{what}: no answer within a minute")))
}
