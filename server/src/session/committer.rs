//! Group commit of sessions that open, are confirmed or close. The next batch of changes gathers
//! while one commits.
//!
//! Each session still waits until its own change is durable. The list in Hello commits with the
//! epoch, and only then does the agent hear of it. A session that comes alone waits for nobody.
//! While many come, a batch gathers for [`GATHER`] first, because it costs nearly the same for one
//! session as for a hundred.

use std::{collections::HashMap, slice, sync::Arc, time::Duration};

use kernex_proto::ids::{DeviceId, Digest};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    HANDSHAKES,
    handshake::{Challenge, HandshakeError, Hello, verify},
};
use crate::{
    domain::device::away::Away,
    error::chain,
    metrics::Metrics,
    store::{
        OpenSession, OpenedSession, ReplicaId, SessionChange, SessionChanged, Store, StoreError,
    },
};

/// Changes that may wait: all handshakes there can be at once, and as many ends.
const QUEUE: usize = 2 * HANDSHAKES;
/// Changes in one transaction. More would keep the other writers waiting.
const BATCH: usize = HANDSHAKES;
/// Time from the end of one batch to the next while many come. A full batch does not wait.
const GATHER: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub struct SessionCommitter(mpsc::Sender<QueuedChange>);

/// Who an agent says it is, with its proof. Nothing of it is believed yet.
#[derive(Debug)]
pub struct Claim {
    /// What it had to sign.
    pub challenge: Challenge,
    pub hello: Hello,
    /// Hash of the session token that it gets if its proof holds.
    pub token_hash: Digest,
    pub replica: ReplicaId,
}

#[derive(Debug)]
struct QueuedChange {
    request: Request,
    reply: Reply,
}

#[derive(Debug)]
enum Request {
    Claim(Box<Claim>),
    Change(SessionChange),
}

type Reply = oneshot::Sender<Result<SessionChanged, HandshakeError>>;

impl SessionCommitter {
    /// A committer, and the future that does its work until `stop`. After that it takes the changes
    /// that still wait.
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (changes, queue) = mpsc::channel(QUEUE);
        (Self(changes), run(store, metrics, queue, stop))
    }

    /// Checks a claim against the device's key. Numbers the session and opens it, durably.
    pub async fn open(&self, claim: Claim) -> Result<OpenedSession, HandshakeError> {
        match self.submit(Request::Claim(Box::new(claim))).await? {
            SessionChanged::Opened(opened) => Ok(opened),
            SessionChanged::Done => Err(HandshakeError::Unanswered),
        }
    }

    /// Notes that the agent has written the epoch to disk.
    pub async fn confirm(&self, device: DeviceId, epoch: u64) -> Result<(), HandshakeError> {
        let change = SessionChange::Confirm(device, epoch);
        self.submit(Request::Change(change)).await.map(drop)
    }

    /// Notes that the device is here, although its agent cannot write the epoch to disk.
    pub async fn mark_ailing(&self, device: DeviceId, epoch: u64) -> Result<(), HandshakeError> {
        let change = SessionChange::Ail(device, epoch);
        self.submit(Request::Change(change)).await.map(drop)
    }

    /// Ends a session and notes why, unless a newer one took over.
    pub async fn close(
        &self,
        device: DeviceId,
        epoch: u64,
        away: Away,
    ) -> Result<(), HandshakeError> {
        let change = SessionChange::Close(device, epoch, away);
        self.submit(Request::Change(change)).await.map(drop)
    }

    async fn submit(&self, request: Request) -> Result<SessionChanged, HandshakeError> {
        let (reply, answered) = oneshot::channel();
        let queued = QueuedChange { request, reply };
        self.0
            .send(queued)
            .await
            .map_err(|_| HandshakeError::Draining)?;
        answered.await.map_err(|_| HandshakeError::Draining)?
    }
}

impl Claim {
    /// The session to open, once the proof has held for this key.
    fn into_opening(self, key: Digest) -> OpenSession {
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

/// How long the next batch gathers. After a session that came alone, the next one waits for nobody.
fn pause_after(taken: usize) -> Duration {
    if taken > 1 { GATHER } else { Duration::ZERO }
}

async fn run(
    store: Store,
    metrics: Arc<Metrics>,
    mut queue: mpsc::Receiver<QueuedChange>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    // A batch gathers until then, however small it is.
    let mut gather_until = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Takes all that waits, up to a batch. Cancel-safe.
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 {
                break;
            }
        }
        while batch.len() < BATCH && Instant::now() < gather_until {
            let room = BATCH - batch.len();
            tokio::select! {
                () = stop.cancelled() => break,
                count = timeout_at(gather_until, queue.recv_many(&mut batch, room)) => {
                    // The time is over, or nobody can come any more.
                    if !matches!(count, Ok(1..)) {
                        break;
                    }
                }
            }
        }
        let pause = pause_after(batch.len());
        commit(&store, &metrics, &mut batch).await;
        gather_until = Instant::now() + pause;
    }
    queue.close();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        commit(&store, &metrics, &mut batch).await;
    }
}

/// Commits a batch in one transaction, and answers each change.
async fn commit(store: &Store, metrics: &Metrics, batch: &mut Vec<QueuedChange>) {
    metrics.sessions.flush.observe(batch.len() as f64);
    let (changes, replies) = verify_claims(store, batch).await;
    if changes.is_empty() {
        return;
    }
    let answers: Vec<Result<SessionChanged, HandshakeError>> = match store
        .change_sessions(&changes)
        .await
    {
        Ok(answers) => {
            let answers = changes.iter().zip(answers);
            answers
                .map(|(change, answer)| answer.map_err(|error| refusal(change, error)))
                .collect()
        }
        Err(StoreError::Unavailable(why)) => {
            let unavailable = || Err(StoreError::Unavailable(why.clone()).into());
            changes.iter().map(|_| unavailable()).collect()
        }
        // A change that meets a defect does not keep the others out.
        Err(error) if changes.len() > 1 => {
            tracing::warn!(error = %chain(&error), sessions = changes.len(), "sessions are committed one by one");
            let mut answers = Vec::with_capacity(changes.len());
            for change in &changes {
                answers.push(commit_one(store, change).await);
            }
            answers
        }
        Err(error) => {
            let only = changes.first();
            only.map(|change| Err(refusal(change, error)))
                .into_iter()
                .collect()
        }
    };
    for (reply, answer) in replies.into_iter().zip(answers) {
        // Maybe nobody hears the answer. The next session puts it right, or the end of the lease.
        let _ = reply.send(answer);
    }
}

/// Answers the claims that do not hold, and makes changes of the others. One query brings the keys
/// of all of them.
async fn verify_claims(
    store: &Store,
    batch: &mut Vec<QueuedChange>,
) -> (Vec<SessionChange>, Vec<Reply>) {
    // An agent that left meanwhile needs no number any more.
    batch.retain(|waiting| {
        !matches!(waiting.request, Request::Claim(_)) || !waiting.reply.is_closed()
    });
    let claims = batch.iter().filter_map(|waiting| match &waiting.request {
        Request::Claim(claim) => Some(claim.hello.device),
        Request::Change(_) => None,
    });
    let keys = store.device_keys(&claims.collect::<Vec<_>>()).await;
    let (mut changes, mut replies) = (Vec::new(), Vec::new());
    let mut failed = Vec::new();
    for QueuedChange { request, reply } in batch.drain(..) {
        let change = match (request, &keys) {
            (Request::Change(change), _) => Ok(change),
            (Request::Claim(claim), Ok(keys)) => {
                let key = keys.get(&claim.hello.device);
                let proven = verify(&claim.challenge, &claim.hello, key);
                // Each check takes some 100 us; other tasks of this thread run between them.
                tokio::task::yield_now().await;
                match proven {
                    Ok(key) => Ok(SessionChange::Open(Box::new(claim.into_opening(key)))),
                    Err(refusal) => {
                        failed.push((claim, reply, refusal));
                        continue;
                    }
                }
            }
            (Request::Claim(_), Err(error)) => {
                Err(StoreError::Unavailable(chain(error).to_string()).into())
            }
        };
        match change {
            Ok(change) => {
                changes.push(change);
                replies.push(reply);
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }
    answer_failed_claims(store, failed).await;
    (changes, replies)
}

/// Tells agents why their claims failed. The answer is vague, unless the agent proved that it has a
/// key that was revoked.
async fn answer_failed_claims(store: &Store, failed: Vec<(Box<Claim>, Reply, HandshakeError)>) {
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
    for (claim, reply, refusal) in failed {
        let mut answer = refusal;
        for key in revoked.get(&claim.hello.device).into_iter().flatten() {
            let proven = verify(&claim.challenge, &claim.hello, Some(&key.key));
            tokio::task::yield_now().await;
            if proven.is_ok() {
                answer = HandshakeError::KeyRevoked {
                    cause: key.cause,
                    device_name: key.device_name.clone(),
                };
                break;
            }
        }
        let _ = reply.send(Err(answer));
    }
}

/// What an agent is told. It does not learn that its device or key went away meanwhile: it may be a
/// stranger.
fn refusal(change: &SessionChange, error: StoreError) -> HandshakeError {
    match (change, error) {
        (SessionChange::Open(_), StoreError::NotFound { .. }) => {
            HandshakeError::NotAuthenticated("revoked in this moment")
        }
        (_, error) => error.into(),
    }
}

async fn commit_one(
    store: &Store,
    change: &SessionChange,
) -> Result<SessionChanged, HandshakeError> {
    let answers = store.change_sessions(slice::from_ref(change)).await;
    let answers = answers.map_err(|error| refusal(change, error))?;
    let answer = answers.into_iter().next();
    answer.map_or(Err(HandshakeError::Unanswered), |answer| {
        answer.map_err(|error| refusal(change, error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, domain::device::away::AwayReason, metrics::Transactions};
    use prometheus_client::encoding::prometheus_text::encode;

    fn away() -> Away {
        AwayReason::Closed.into()
    }

    #[tokio::test]
    async fn a_refused_change_is_answered_alone_and_after_a_stop_nothing_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let metrics = Arc::new(Metrics::new(Transactions::default()));
        let stop = CancellationToken::new();
        let (changes, work) = SessionCommitter::new(store, Arc::clone(&metrics), stop.clone());
        let asking = async {
            let nobody = DeviceId::generate();
            let (confirmed, closed) =
                tokio::join!(changes.confirm(nobody, 1), changes.close(nobody, 1, away()));
            assert!(
                matches!(
                    confirmed,
                    Err(HandshakeError::Store(StoreError::NotFound { .. }))
                ),
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
        let late = changes.close(DeviceId::generate(), 1, away()).await;
        assert!(matches!(late, Err(HandshakeError::Draining)), "{late:?}");
    }
}
