//! Group commit for what opens, is confirmed and closes: while one batch of steps commits the next one gathers.
//!
//! Each session still waits for its own step to be durable: Hello's list commits with the epoch, and only then does the agent
//! hear of it. A session that comes alone waits for nobody.

use std::{slice, sync::Arc};

use kernex_proto::ids::DeviceId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::HANDSHAKES;
use crate::{
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
const BATCH: usize = 128;

/// The way in, shared by all sessions.
#[derive(Debug, Clone)]
pub struct Steps(mpsc::Sender<Waiting>);

#[derive(Debug)]
struct Waiting {
    step: Step,
    tell: oneshot::Sender<Result<Taken, StoreError>>,
}

impl Steps {
    /// The way in, and the future that does the work until `stop`, after which it takes what still waits.
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (steps, queue) = mpsc::channel(QUEUE);
        (Self(steps), run(store, metrics, queue, stop))
    }

    /// Numbers and opens a session, durably.
    pub async fn open(&self, open: OpenSession) -> Result<OpenedSession, StoreError> {
        match self.take(Step::Open(Box::new(open))).await? {
            Taken::Opened(opened) => Ok(opened),
            Taken::Done => Err(stopped()),
        }
    }

    /// Notes that the agent has the epoch on disk.
    pub async fn confirm(&self, device: DeviceId, epoch: u64) -> Result<(), StoreError> {
        self.take(Step::Confirm(device, epoch)).await.map(drop)
    }

    /// Ends a session, unless a newer one took over.
    pub async fn close(&self, device: DeviceId, epoch: u64) -> Result<(), StoreError> {
        self.take(Step::Close(device, epoch)).await.map(drop)
    }

    async fn take(&self, step: Step) -> Result<Taken, StoreError> {
        let (tell, told) = oneshot::channel();
        let waiting = Waiting { step, tell };
        self.0.send(waiting).await.map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())?
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the server is stopping".into())
}

async fn run(
    store: Store,
    metrics: Arc<Metrics>,
    mut queue: mpsc::Receiver<Waiting>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Takes everything that waits, up to a batch; cancel-safe.
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 {
                break;
            }
        }
        commit(&store, &metrics, &mut batch).await;
    }
    queue.close();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        commit(&store, &metrics, &mut batch).await;
    }
}

/// Takes a batch together, and answers everybody.
async fn commit(store: &Store, metrics: &Metrics, batch: &mut Vec<Waiting>) {
    // An agent that went away meanwhile needs no number any more.
    batch.retain(|waiting| !matches!(waiting.step, Step::Open(_)) || !waiting.tell.is_closed());
    if batch.is_empty() {
        return;
    }
    metrics.session_flush.observe(batch.len() as f64);
    let (steps, tells): (Vec<_>, Vec<_>) = batch
        .drain(..)
        .map(|waiting| (waiting.step, waiting.tell))
        .unzip();
    let answers = match store.take_steps(&steps).await {
        Ok(answers) => answers,
        Err(StoreError::Unavailable(why)) => {
            let unavailable = || Err(StoreError::Unavailable(why.clone()));
            steps.iter().map(|_| unavailable()).collect()
        }
        // One that trips over a defect must not shut the others out.
        Err(error) if steps.len() > 1 => {
            tracing::warn!(error = %crate::error::chain(&error), sessions = steps.len(), "sessions are taken one by one");
            let mut answers = Vec::with_capacity(steps.len());
            for step in &steps {
                answers.push(alone(store, step).await);
            }
            answers
        }
        Err(error) => vec![Err(error)],
    };
    for (tell, answer) in tells.into_iter().zip(answers) {
        // Nobody may be left to hear it; the next session or the lease puts it right.
        let _ = tell.send(answer);
    }
}

async fn alone(store: &Store, step: &Step) -> Result<Taken, StoreError> {
    let mut answers = store.take_steps(slice::from_ref(step)).await?;
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
                matches!(confirmed, Err(StoreError::NotFound { .. })),
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
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    }
}
