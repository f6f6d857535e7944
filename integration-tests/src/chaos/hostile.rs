//! Attacks by strangers, by a viewer, by an operator and by a device of the fleet, each for a
//! while, beside honest light agents and an honest operator.
//!
//! `count` is how many seconds each attack lasts. From [`WHOLE`] seconds on it is split into pairs
//! of calm and attack, and what honest pushes have to wait is judged by the median of the pairs.
//! Below that, as in CI, only memory, refusals and readiness are: a busy machine moves waits by
//! more than an attack does.
//!
//! ```text
//! kernex-chaos run hostile --count 20    # 20 s an attack, 1,000 agents; takes some 20 minutes
//! ```

mod attacks;
mod frames;
mod honest;
mod target;

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use self::{attacks::ATTACKS, honest::HonestFleet, target::Target};
use super::{Failure, Figures, Plan};
use crate::samples::{median, mib};

/// From so many seconds on an attack is judged by what honest pushes have to wait, too.
pub const WHOLE: usize = 20;

/// Pairs of calm and attack, when waits are judged.
const PAIRS: usize = 5;

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

/// Does each attack for `plan.count` seconds.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let whole = plan.count >= WHOLE;
    let usual = if whole { DEVICES.0 } else { DEVICES.1 };
    let devices = plan.devices.unwrap_or(usual);
    let mut honest = HonestFleet::start(plan.database, devices).await?;
    let target = Arc::new(Target::new(&honest, whole).await?);
    let pairs = if whole { PAIRS } else { 1 };
    let time = Duration::from_secs(plan.count as u64) / u32::try_from(pairs).unwrap_or(1);
    let mut figures = Figures::default();
    for attack in ATTACKS.to_vec() {
        plan.history.note(format_args!("{}", attack.name));
        let (mut calm, mut attacked) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let before = honest.work(time).await?;
            let memory = honest.memory();
            let mut attackers = JoinSet::new();
            for number in 0..attack.attackers {
                attackers.spawn((attack.run)(Arc::clone(&target), number));
            }
            let during = honest.work(time).await;
            let done = target.done();
            attackers.shutdown().await;
            let during = during.map_err(|failure| Failure {
                what: format!("{}: {}", attack.name, failure.what),
                ..failure
            })?;
            if done == 0 {
                return Err(Failure::new(format!("{}: nobody attacked", attack.name)));
            }
            let on_top = during.memory.saturating_sub(memory);
            figures.most(&format!("{}: MiB on top", attack.name), mib(on_top));
            if on_top > MEMORY {
                return Err(honest.failed(format!(
                    "{}: {:.0} MiB on top of {:.0}",
                    attack.name,
                    mib(on_top),
                    mib(memory)
                )));
            }
            honest
                .recovers(attack.name, memory + MEMORY / 4, BACK)
                .await?;
            // Log lines of honest work do not count.
            let said = during.log.saturating_sub(before.log);
            let log = said as f64 * 60.0 / time.as_secs_f64();
            figures.most(
                &format!("{}: KiB of log a minute", attack.name),
                log / 1024.0,
            );
            if whole && log > LOG {
                return Err(honest.failed(format!(
                    "{}: the log grows by {:.1} MiB a minute",
                    attack.name,
                    log / LOG
                )));
            }
            calm.push(before.wait.as_secs_f64());
            attacked.push(during.wait.as_secs_f64());
        }
        let (Some(calm), Some(attacked)) = (median(&calm), median(&attacked)) else {
            continue;
        };
        figures.most(
            &format!("{}: push p99 in peace, ms", attack.name),
            calm * 1e3,
        );
        figures.most(&format!("{}: push p99, ms", attack.name), attacked * 1e3);
        let most = (calm * 2.0).max(calm + WAIT.as_secs_f64());
        if whole && attacked > most {
            return Err(honest.failed(format!(
                "{}: honest pushes wait {:.0} ms, {:.0} in peace",
                attack.name,
                attacked * 1e3,
                calm * 1e3
            )));
        }
    }
    figures.count("attacks", ATTACKS.len());
    Ok(figures)
}

/// The result of `work`, or a failure when it takes too long.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(Duration::from_secs(60), work)
        .await
        .map_err(|_| Failure::new(format!("{what}: no answer within a minute")))
}
