//! Group commit for what opens, is confirmed and closes: while one batch of steps commits the next
//! one gathers.
//!
//! Each session still waits for its own step to be durable: Hello's list commits with the epoch,
//! and only then does the agent hear of it. A session that comes alone waits for nobody; while many
//! come, a batch gathers for [`PAUSE`] first, because most of what a batch costs is the same for
//! one session and for a hundred.

use std::{collections::HashMap, slice, sync::Arc, time::Duration};

use kernex_proto::ids::{DeviceId, Digest};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    HANDSHAKES,
    handshake::{Challenge, Hello, Refusal, verify},
};
use crate::{
    error::chain,
    metrics::Metrics,
    store::{
        Store, StoreError,
        sessions::{OpenSession, OpenedSession},
        steps::{Step, Taken},
    },
};

/// Steps that may wait: every handshake there can be at once, and as many sessions that end.
const QUEUE: usize = 2 * HANDSHAKES;
/// Steps in one transaction; keeps the other writers from waiting long behind it.
const BATCH: usize = HANDSHAKES;
/// From the end of one batch to the next one while many come, unless that is full before.
const PAUSE: Duration = Duration::from_millis(200);

/// The way in, shared by all sessions.
#[derive(Debug, Clone)]
pub struct Steps(mpsc::Sender<Waiting>);

/// Who an agent says it is, with its proof; nothing of it is believed yet.
#[derive(Debug)]
pub struct Claim {
    /// What it had to sign.
    pub challenge: Challenge,
    /// What it said.
    pub hello: Hello,
    /// Hash of the session token it gets if it is right.
    pub token_hash: Digest,
    /// The replica it is connected to.
    pub replica: Uuid,
}

#[derive(Debug)]
struct Waiting {
    what: What,
    tell: Tell,
}

#[derive(Debug)]
enum What {
    Claim(Box<Claim>),
    Step(Step),
}

type Tell = oneshot::Sender<Result<Taken, Refusal>>;

impl Steps {
    /// The way in, and the future that does the work until `stop`, after which it takes what still
    /// waits.
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (steps, queue) = mpsc::channel(QUEUE);
        (Self(steps), run(store, metrics, queue, stop))
    }

    /// Checks a claim against the device's key, and numbers and opens its session, durably.
    pub async fn open(&self, claim: Claim) -> Result<OpenedSession, Refusal> {
        match self.take(What::Claim(Box::new(claim))).await? {
            Taken::Opened(opened) => Ok(opened),
            Taken::Done => Err(stopped()),
        }
    }

    /// Notes that the agent has the epoch on disk.
    pub async fn confirm(&self, device: DeviceId, epoch: u64) -> Result<(), Refusal> {
        let step = Step::Confirm(device, epoch);
        self.take(What::Step(step)).await.map(drop)
    }

    /// Notes that the device is here although its agent cannot write the epoch down.
    pub async fn ail(&self, device: DeviceId, epoch: u64) -> Result<(), Refusal> {
        let step = Step::Ail(device, epoch);
        self.take(What::Step(step)).await.map(drop)
    }

    /// Ends a session, unless a newer one took over.
    pub async fn close(&self, device: DeviceId, epoch: u64) -> Result<(), Refusal> {
        let step = Step::Close(device, epoch);
        self.take(What::Step(step)).await.map(drop)
    }

    async fn take(&self, what: What) -> Result<Taken, Refusal> {
        let (tell, told) = oneshot::channel();
        let waiting = Waiting { what, tell };
        self.0.send(waiting).await.map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())?
    }
}

impl Claim {
    /// The session it is about, once its proof held.
    fn proven(self, key: Digest) -> OpenSession {
        let hello = self.hello;
        let protocol_revision = hello.revision();
        OpenSession {
            device: hello.device,
            key,
            journal: hello.journal,
            last_epoch: hello.wire.last_epoch,
            protocol_revision,
            boot_id: hello.wire.boot_id,
            agent_version: hello.wire.agent_version,
            inventory: hello.wire.inventory.unwrap_or_default(),
            held: hello.held,
            acknowledged_seq: hello.wire.acknowledged_seq,
            token_hash: self.token_hash,
            replica: self.replica,
        }
    }
}

fn stopped() -> Refusal {
    StoreError::Unavailable("the server is stopping".into()).into()
}

/// How long the next batch gathers: whoever comes alone makes nobody wait.
fn pause_after(taken: usize) -> Duration {
    if taken > 1 { PAUSE } else { Duration::ZERO }
}

async fn run(
    store: Store,
    metrics: Arc<Metrics>,
    mut queue: mpsc::Receiver<Waiting>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    // Until when a batch gathers, however little there is in it.
    let mut gathers = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Takes everything that waits, up to a batch; cancel-safe.
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 {
                break;
            }
        }
        while batch.len() < BATCH && Instant::now() < gathers {
            let room = BATCH - batch.len();
            tokio::select! {
                () = stop.cancelled() => break,
                count = timeout_at(gathers, queue.recv_many(&mut batch, room)) => {
                    // The time is over, or nobody can come any more.
                    if !matches!(count, Ok(1..)) {
                        break;
                    }
                }
            }
        }
        let pause = pause_after(batch.len());
        commit(&store, &metrics, &mut batch).await;
        gathers = Instant::now() + pause;
    }
    queue.close();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        commit(&store, &metrics, &mut batch).await;
    }
}

/// Takes a batch together, and answers everybody.
async fn commit(store: &Store, metrics: &Metrics, batch: &mut Vec<Waiting>) {
    metrics.session_flush.observe(batch.len() as f64);
    let (steps, tells) = prove(store, batch).await;
    if steps.is_empty() {
        return;
    }
    let answers = match store.take_steps(&steps).await {
        Ok(answers) => answers,
        Err(StoreError::Unavailable(why)) => {
            let unavailable = || Err(StoreError::Unavailable(why.clone()));
            steps.iter().map(|_| unavailable()).collect()
        }
        // One that trips over a defect must not shut the others out.
        Err(error) if steps.len() > 1 => {
            tracing::warn!(error = %chain(&error), sessions = steps.len(), "sessions are taken one by one");
            let mut answers = Vec::with_capacity(steps.len());
            for step in &steps {
                answers.push(alone(store, step).await);
            }
            answers
        }
        Err(error) => vec![Err(error)],
    };
    for ((step, tell), answer) in steps.iter().zip(tells).zip(answers) {
        // Nobody may be left to hear it; the next session or the lease puts it right.
        let _ = tell.send(answer.map_err(|error| refusal(step, error)));
    }
}

/// Answers the claims that do not hold, and makes steps of the rest of a batch. One query brings
/// the keys of all of them.
async fn prove(store: &Store, batch: &mut Vec<Waiting>) -> (Vec<Step>, Vec<Tell>) {
    // An agent that went away meanwhile needs no number any more.
    batch.retain(|waiting| !matches!(waiting.what, What::Claim(_)) || !waiting.tell.is_closed());
    let claims = batch.iter().filter_map(|waiting| match &waiting.what {
        What::Claim(claim) => Some(claim.hello.device),
        What::Step(_) => None,
    });
    let keys = store.device_keys(&claims.collect::<Vec<_>>()).await;
    let (mut steps, mut tells) = (Vec::new(), Vec::new());
    let mut failed = Vec::new();
    for Waiting { what, tell } in batch.drain(..) {
        let step = match (what, &keys) {
            (What::Step(step), _) => Ok(step),
            (What::Claim(claim), Ok(keys)) => {
                let key = keys.get(&claim.hello.device);
                let proven = verify(&claim.challenge, &claim.hello, key);
                // Some ten thousandths of a second each, which the other tasks of this thread are
                // not to wait for in a row.
                tokio::task::yield_now().await;
                match proven {
                    Ok(key) => Ok(Step::Open(Box::new(claim.proven(key)))),
                    Err(refusal) => {
                        failed.push((claim, tell, refusal));
                        continue;
                    }
                }
            }
            (What::Claim(_), Err(error)) => {
                Err(StoreError::Unavailable(chain(error).to_string()).into())
            }
        };
        match step {
            Ok(step) => {
                steps.push(step);
                tells.push(tell);
            }
            Err(refusal) => {
                let _ = tell.send(Err(refusal));
            }
        }
    }
    refuse(store, failed).await;
    (steps, tells)
}

/// Tells why claims failed: vaguely, except to who proved to hold a key that was revoked.
async fn refuse(store: &Store, failed: Vec<(Box<Claim>, Tell, Refusal)>) {
    if failed.is_empty() {
        return;
    }
    let devices: Vec<DeviceId> = failed
        .iter()
        .map(|(claim, ..)| claim.hello.device)
        .collect();
    let revoked = store.revoked_keys(&devices).await;
    let revoked = revoked.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "nobody is told why a key does not work");
        HashMap::new()
    });
    for (claim, tell, refusal) in failed {
        let mut answer = refusal;
        for key in revoked.get(&claim.hello.device).into_iter().flatten() {
            let proven = verify(&claim.challenge, &claim.hello, Some(&key.key));
            tokio::task::yield_now().await;
            if proven.is_ok() {
                answer = Refusal::KeyRevoked {
                    cause: key.cause,
                    device_name: key.device_name.clone(),
                };
                break;
            }
        }
        let _ = tell.send(Err(answer));
    }
}

/// What an agent is told: that its device or key went away in the meantime is no news to a
/// stranger.
fn refusal(step: &Step, error: StoreError) -> Refusal {
    match (step, error) {
        (Step::Open(_), StoreError::NotFound { .. }) => {
            Refusal::NotAuthenticated("revoked in this moment")
        }
        (_, error) => error.into(),
    }
}

async fn alone(store: &Store, step: &Step) -> Result<Taken, StoreError> {
    let mut answers = store.take_steps(slice::from_ref(step)).await?;
    let stopped = || StoreError::Unavailable("a step without an answer".into());
    answers.pop().unwrap_or_else(|| Err(stopped()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, metrics::Transactions};
    use prometheus_client::encoding::prometheus_text::encode;

    #[tokio::test]
    async fn a_refused_step_is_answered_alone_and_after_a_stop_nothing_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let metrics = Arc::new(Metrics::new(Transactions::default()));
        let stop = CancellationToken::new();
        let (steps, work) = Steps::new(store, Arc::clone(&metrics), stop.clone());
        let asking = async {
            let nobody = DeviceId::generate();
            let (confirmed, closed) =
                tokio::join!(steps.confirm(nobody, 1), steps.close(nobody, 1));
            assert!(
                matches!(confirmed, Err(Refusal::Store(StoreError::NotFound { .. }))),
                "{confirmed:?}"
            );
            assert!(closed.is_ok(), "{closed:?}");
            stop.cancel();
        };
        tokio::join!(work, asking);
        let mut scrape = String::new();
        encode(&mut scrape, &metrics.registry()).expect("encodes");
        assert!(
            scrape.contains("kernex_session_flush_size_sum 2"),
            "{scrape}"
        );
        assert!(
            scrape.contains("kernex_session_flush_size_count 1"),
            "{scrape}"
        );
        let late = steps.close(DeviceId::generate(), 1).await;
        let unavailable = matches!(late, Err(Refusal::Store(StoreError::Unavailable(_))));
        assert!(unavailable, "{late:?}");
    }
}
