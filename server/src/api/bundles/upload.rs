//! Receives a bundle: hashes its bytes while it writes them, and checks them before the bundle
//! exists. An upload that fails leaves nothing behind.

pub(crate) mod error;
mod intake;

use std::time::Duration;

use kernex_proto::{
    archive::{Finding, Inspected, Limits},
    ids::{Digest, check_name},
    v1::{self, upload_bundle_request::Message},
};
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use self::{error::UploadError, intake::Intake};
use crate::{
    api::wire::fields::id,
    blobs::{BlobError, BlobWriter, Blobs, StagedBlob},
    error::{archive, internal, invalid},
    store::NewBundle,
};

/// An upload ends when its caller sends nothing for this long.
const IDLE: Duration = Duration::from_secs(60);
/// Every upload may take this long.
const GRACE: Duration = Duration::from_secs(600);
/// Average bytes a second that a longer upload has to reach, so that nobody holds a place by
/// sending a byte now and then.
const LEAST_RATE: u64 = 16 * 1024;
/// Most signatures of a bundle: they travel with every deploy.
const MAX_SIGNATURES: usize = 16;
const MAX_SIGNATURE_BYTES: usize = 4096;
/// Most notes in an answer.
const MAX_NOTES: usize = 50;

/// Bytes that were checked and can become a bundle.
pub(super) struct Upload {
    /// The bytes, synced to disk.
    pub(super) blob: StagedBlob,
    /// The row that they become.
    pub(super) bundle: NewBundle,
    /// Findings that do not refuse the upload, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Limits of an upload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// Most bytes of a bundle.
    pub(super) size: u64,
    /// What it may hold.
    pub(super) limits: Limits,
}

/// Receives the messages of one upload. The bytes go to a thread of their own. Dropping the future
/// leaves nothing behind.
pub(super) async fn receive<S>(
    blobs: &Blobs,
    allowed: Allowed,
    mut messages: S,
) -> Result<Upload, Status>
where
    S: Stream<Item = Result<v1::UploadBundleRequest, Status>> + Unpin + Send,
{
    let started = Instant::now();
    let begin = match next(&mut messages, IDLE).await? {
        Some(Message::Begin(begin)) => Announced::check(begin, allowed.size)?,
        Some(Message::Chunk(_)) | None => return Err(invalid("begin", "it has to come first")),
    };
    let writer = blobs.begin().await?;
    if let Some(size) = begin.size
        && free_bytes(&writer).is_some_and(|free| free < size)
    {
        return Err(BlobError::NoSpace.into());
    }
    let intake = Intake::start(writer, allowed.limits, begin.allow_unknown);
    if let Err(status) = forward(&mut messages, &intake, allowed.size, started).await {
        intake.abort().await;
        return Err(status);
    }
    let received = intake.end().await?;
    begin.compare(received.size, received.digest)?;
    let checked = received.checked.map_err(|error| archive(&error))?;
    let notes = checked.notes.iter();
    let notes = notes.map(Finding::with_way_out).take(MAX_NOTES).collect();
    let bundle = begin.bundle(received.size, received.digest, checked.inspected)?;
    let blob = received.writer.sync().await?;
    Ok(Upload {
        blob,
        bundle,
        notes,
    })
}

/// Hands the bytes to the thread until all have come, or the thread takes no more.
async fn forward<S>(
    messages: &mut S,
    intake: &Intake,
    max_size: u64,
    started: Instant,
) -> Result<(), Status>
where
    S: Stream<Item = Result<v1::UploadBundleRequest, Status>> + Unpin + Send,
{
    let mut size: u64 = 0;
    loop {
        let left = allowed(size).saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(too_slow(size, started.elapsed()));
        }
        let message = match next(messages, Ord::min(left, IDLE)).await {
            Err(_) if left < IDLE && started.elapsed() >= allowed(size) => {
                return Err(too_slow(size, started.elapsed()));
            }
            message => message?,
        };
        let Some(message) = message else {
            return Ok(());
        };
        let Message::Chunk(chunk) = message else {
            return Err(invalid("begin", "it comes once"));
        };
        size = size.saturating_add(chunk.len() as u64);
        if size > max_size {
            return Err(UploadError::TooLarge(max_size).into());
        }
        if !intake.give(chunk).await {
            return Ok(());
        }
    }
}

/// How long an upload may have taken by the time it has sent so many bytes.
const fn allowed(size: u64) -> Duration {
    GRACE.saturating_add(Duration::from_secs(size / LEAST_RATE))
}

fn too_slow(size: u64, took: Duration) -> Status {
    let error = UploadError::TooSlow {
        size,
        took,
        grace: GRACE,
        least_rate: LEAST_RATE,
    };
    error.into()
}

/// The next message; `None` once the caller has sent everything.
async fn next<S>(messages: &mut S, idle: Duration) -> Result<Option<Message>, Status>
where
    S: Stream<Item = Result<v1::UploadBundleRequest, Status>> + Unpin + Send,
{
    match tokio::time::timeout(idle, messages.next())
        .await
        .map_err(|_| UploadError::Silent(idle))?
    {
        None => Ok(None),
        Some(Err(status)) => Err(status),
        Some(Ok(v1::UploadBundleRequest {
            message: Some(message),
        })) => Ok(Some(message)),
        Some(Ok(v1::UploadBundleRequest { message: None })) => {
            Err(invalid("message", "it has to be `begin` or `chunk`"))
        }
    }
}

/// What the caller says about the bytes, checked.
struct Announced {
    size: Option<u64>,
    digest: Option<Digest>,
    name: Option<String>,
    signatures: Vec<v1::BundleSignature>,
    allow_unknown: bool,
}

impl Announced {
    fn check(begin: v1::UploadBegin, max_size: u64) -> Result<Self, Status> {
        if begin.size_bytes > max_size {
            return Err(UploadError::TooLarge(max_size).into());
        }
        let digest = match begin.digest.as_str() {
            "" => None,
            text => Some(id("digest", text)?),
        };
        let name = Some(begin.name).filter(|name| !name.is_empty());
        if let Some(name) = &name {
            check_name("bundle name", name).map_err(|_| {
                invalid(
                    "name",
                    "it has to be 1 to 100 of a-z A-Z 0-9 . _ -, starting with a letter or digit",
                )
            })?;
        }
        let too_long = |s: &v1::BundleSignature| {
            s.key_id.len() + s.algorithm.len() + s.signature.len() > MAX_SIGNATURE_BYTES
        };
        if begin.signatures.len() > MAX_SIGNATURES || begin.signatures.iter().any(too_long) {
            return Err(invalid(
                "signatures",
                format!("at most {MAX_SIGNATURES} of up to {MAX_SIGNATURE_BYTES} bytes each"),
            ));
        }
        Ok(Self {
            size: (begin.size_bytes > 0).then_some(begin.size_bytes),
            digest,
            name,
            signatures: begin.signatures,
            allow_unknown: begin.allow_unknown,
        })
    }

    /// The row of bytes that passed every check.
    fn bundle(self, size: u64, digest: Digest, inspected: Inspected) -> Result<NewBundle, Status> {
        let manifest_json =
            String::from_utf8(inspected.manifest_json).map_err(|error| internal(&error))?;
        Ok(NewBundle {
            name: match self.name {
                Some(name) => name,
                None => inspected.manifest.name_or_default().to_owned(),
            },
            version: inspected.manifest.version,
            digest,
            size,
            format: inspected.format.into(),
            manifest_json,
            unpacked_bytes: inspected.unpacked_bytes,
            entries: inspected.entries,
            signatures: self.signatures,
        })
    }

    fn compare(&self, size: u64, digest: Digest) -> Result<(), UploadError> {
        if let Some(said) = self.size.filter(|said| *said != size) {
            return Err(UploadError::OtherSize { came: size, said });
        }
        if let Some(said) = self.digest.filter(|said| *said != digest) {
            return Err(UploadError::OtherDigest { came: digest, said });
        }
        Ok(())
    }
}

/// Free bytes where uploads are written; none when the system does not tell.
fn free_bytes(writer: &BlobWriter) -> Option<u64> {
    let folder = writer.path().parent()?;
    let stats = rustix::fs::statvfs(folder).ok()?;
    stats.f_bavail.checked_mul(stats.f_frsize)
}

#[cfg(test)]
mod tests;
