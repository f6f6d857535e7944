//! Fetching a bundle: tried until it works, each time from where the last try stopped, and hashed
//! while it is written.

use std::{fs::File, io, io::Write as _, num::NonZeroU64, path::Path, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use kernex_proto::{
    digest::{Digest, Hasher},
    error::chain,
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::Code;

use super::{NoRoom, make_room};
use crate::{channel::Calls, durable, link::Link, removal::Remover};

/// Most time until the server begins to answer.
const BEGIN: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// After so many refusals of the session's token in a row, another session is opened.
const MAX_REFUSALS: u32 = 3;

/// Why a bundle could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The server does not have it, or not for this device.
    #[error("the server refused the download: {0}")]
    Refused(String),
    /// The bytes were not the bundle's, twice.
    #[error("the downloaded bytes have digest {found}, not {wanted}")]
    Mismatch { wanted: Digest, found: Digest },
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error("cannot write the download: {0}")]
    Io(#[from] io::Error),
}

impl FetchError {
    pub(crate) fn reason(&self) -> v1::FailureReason {
        match self {
            Self::Refused(_) => v1::FailureReason::Download,
            Self::Mismatch { .. } => v1::FailureReason::DigestMismatch,
            Self::NoRoom(_) => v1::FailureReason::DiskFull,
            Self::Io(err) if is_full(err) => v1::FailureReason::DiskFull,
            Self::Io(_) => v1::FailureReason::Internal,
        }
    }
}

/// Whether the disk, or the quota on it, is full.
pub(crate) fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(crate) struct Fetch<'a> {
    pub(crate) digest: Digest,
    /// Its size in bytes; 0 when not known.
    pub(crate) size: u64,
    pub(crate) path: &'a Path,
    /// Knows the disk, and removes old releases when it is full.
    pub(crate) remover: &'a Remover,
    /// The live session, while there is one.
    pub(crate) link: watch::Receiver<Option<Link>>,
    /// Most bytes a second.
    pub(crate) limit: Option<NonZeroU64>,
    /// Called with the number of bytes so far.
    pub(crate) progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl Fetch<'_> {
    /// Fetches and verifies. The caller removes the file on an error, and when this is dropped.
    pub(crate) async fn run(mut self) -> Result<(), FetchError> {
        match self.fetch_once().await {
            Err(FetchError::Mismatch { wanted, found }) => {
                tracing::warn!(%wanted, %found, "the download is damaged; fetching once more");
                durable::discard(self.path);
                self.fetch_once().await
            }
            done => done,
        }
    }

    async fn fetch_once(&mut self) -> Result<(), FetchError> {
        make_room(self.remover, self.size).await??;
        let mut sink = Sink::create(self.path).await?;
        let policy = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .without_max_times()
            .with_jitter();
        let mut waits = policy.build();
        // A stored file that is too short ends cleanly, again and again; that is damage, not a cut.
        let (mut empty_ends, mut refusals) = (0, 0);
        while empty_ends < 3 {
            let before = sink.offset;
            let ended = self.stream(&mut sink).await?;
            match &ended {
                StreamEnd::SessionRefused(_) if sink.offset == before => refusals += 1,
                _ => refusals = 0,
            }
            if refusals == MAX_REFUSALS {
                refusals = 0;
                self.invalidate_session();
            }
            match ended {
                StreamEnd::Complete => break,
                StreamEnd::Cleanly if sink.offset == before => empty_ends += 1,
                StreamEnd::Cleanly => {}
                StreamEnd::Cut(why) | StreamEnd::SessionRefused(why) => {
                    tracing::info!(
                        offset = sink.offset,
                        why,
                        "the download was cut; will go on"
                    );
                }
            }
            if sink.offset > before {
                waits = policy.build();
                empty_ends = 0;
            }
            tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
        }
        let found = sink.finish().await?;
        if found == self.digest {
            Ok(())
        } else {
            Err(FetchError::Mismatch {
                wanted: self.digest,
                found,
            })
        }
    }

    /// The next session has another token.
    fn invalidate_session(&self) {
        if let Some(link) = &*self.link.borrow() {
            link.invalidate();
        }
    }

    async fn stream(&mut self, sink: &mut Sink) -> Result<StreamEnd, FetchError> {
        let link = match self.link.wait_for(Option::is_some).await {
            Ok(link) => link.clone(),
            Err(_) => None,
        };
        let Some(link) = link else {
            return Ok(StreamEnd::Cut("the agent is stopping".to_owned()));
        };
        // Nothing would ever come on a connection that died silently; the session notices that.
        let mut session = self.link.clone();
        tokio::select! {
            ended = Box::pin(self.download(&link, sink)) => ended,
            _ = session.changed() => Ok(StreamEnd::Cut("its session is over".to_owned())),
        }
    }

    /// One download over a connection of its own. May be dropped at any moment.
    async fn download(&self, link: &Link, sink: &mut Sink) -> Result<StreamEnd, FetchError> {
        let (client, connection) = match link.connect_bulk(self.limit).await {
            Ok(connected) => connected,
            Err(error) => return Ok(StreamEnd::Cut(chain(&error))),
        };
        tokio::select! {
            // Read what has arrived before looking whether the connection ended.
            biased;
            ended = self.receive(client, link, sink) => ended,
            error = connection => Ok(StreamEnd::Cut(chain(&error))),
        }
    }

    async fn receive(
        &self,
        mut client: AgentServiceClient<Calls>,
        link: &Link,
        sink: &mut Sink,
    ) -> Result<StreamEnd, FetchError> {
        let request = link.request(v1::DownloadBundleRequest {
            digest: self.digest.to_string(),
            offset: sink.offset,
        });
        let opened = timeout(BEGIN, client.download_bundle(request)).await;
        let mut stream = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return refused_or_cut(&status),
            Err(_) => return Ok(StreamEnd::Cut("the server did not answer".to_owned())),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    sink.write(message.chunk).await?;
                    (self.progress)(sink.offset);
                    // More than promised can only be something else; the digest will say so.
                    if self.size != 0 && sink.offset >= self.size {
                        return Ok(StreamEnd::Complete);
                    }
                }
                Ok(None) if self.size == 0 => return Ok(StreamEnd::Complete),
                Ok(None) => return Ok(StreamEnd::Cleanly),
                Err(status) => return refused_or_cut(&status),
            }
        }
    }
}

/// Hashes and writes the bytes on a blocking thread, one chunk at a time, while the next one is
/// received. So neither the session nor the journal waits long for a thread.
struct Sink {
    /// Absent while a blocking thread has it.
    written: Option<Written>,
    writing: Option<JoinHandle<io::Result<Written>>>,
    offset: u64,
}

/// The file, and the hash of the bytes that are in it so far.
struct Written {
    file: File,
    hash: Hasher,
}

impl Sink {
    async fn create(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let file = blocking(move || File::create(path)).await?;
        Ok(Self {
            written: Some(Written {
                file,
                hash: Hasher::new(),
            }),
            writing: None,
            offset: 0,
        })
    }

    /// Waits for the chunk before, then starts to write this one. When this is dropped while it
    /// waits, the chunk is not written.
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let mut written = self.take_written().await?;
        self.offset += chunk.len() as u64;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            written.hash.update(&chunk);
            written.file.write_all(&chunk)?;
            Ok(written)
        }));
        Ok(())
    }

    /// Syncs the file and returns the digest of its bytes.
    async fn finish(mut self) -> io::Result<Digest> {
        let written = self.take_written().await?;
        blocking(move || {
            written.file.sync_all()?;
            Ok(written.hash.finish())
        })
        .await
    }

    async fn take_written(&mut self) -> io::Result<Written> {
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            return written.map_err(io::Error::other)?;
        }
        let lost = || io::Error::other("the download failed before");
        self.written.take().ok_or_else(lost)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

#[derive(Debug)]
enum StreamEnd {
    Complete,
    Cleanly,
    Cut(String),
    /// The server refuses the session's token.
    SessionRefused(String),
}

/// A clear refusal by the server is final; anything else is tried again.
fn refused_or_cut(status: &tonic::Status) -> Result<StreamEnd, FetchError> {
    match status.code() {
        Code::NotFound
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented => Err(FetchError::Refused(status.message().to_owned())),
        code @ Code::Unauthenticated => Ok(StreamEnd::SessionRefused(format!(
            "{code:?}: {}",
            status.message()
        ))),
        code => Ok(StreamEnd::Cut(match std::error::Error::source(status) {
            Some(source) => chain(source),
            None => format!("{code:?}: {}", status.message()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn only_a_clear_no_ends_a_download() {
        for status in [
            Status::not_found("gone"),
            Status::permission_denied("not yours"),
        ] {
            let err = refused_or_cut(&status).unwrap_err();
            assert_eq!(err.reason(), v1::FailureReason::Download);
            assert!(err.to_string().contains(status.message()));
        }
        for status in [
            Status::unavailable(""),
            Status::resource_exhausted(""),
            Status::cancelled(""),
            // A broken connection ends with its download; the session has another one.
            Status::unknown(""),
            Status::internal(""),
        ] {
            assert!(
                matches!(refused_or_cut(&status), Ok(StreamEnd::Cut(_))),
                "{status}"
            );
        }
        let status = Status::unauthenticated("the session ended meanwhile");
        assert!(matches!(
            refused_or_cut(&status),
            Ok(StreamEnd::SessionRefused(_))
        ));
    }
}
