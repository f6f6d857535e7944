//! `bundle push`: uploads a bundle, with a progress bar.

use std::{path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use kernex_proto::{
    CHUNK_SIZE,
    archive::{Format, Inspected},
    error::Reason,
    ids::Digest,
    v1,
};
use tokio::io::AsyncReadExt as _;
use tonic::Status;

use super::get::find;
use crate::{
    args::{OutputArg, pack::PackArgs},
    client::Client,
    commands::{Session, present},
    error::{Failure, is_passing, reason},
    output::{
        Printer,
        bundle::BundleView,
        print_note,
        progress::{moving, transfer},
    },
    pack,
};

/// Uploads, and prints the bundle as the server has it.
pub(super) async fn run(
    session: &Session,
    path: &Path,
    name: Option<&str>,
    args: PackArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let (bundle, existed) = push(&client, path, name, args).await?;
    if existed {
        print_note("The same bytes were there already.");
    }
    Printer::new(output.output).one(&BundleView::from(bundle))
}

/// Uploads an archive, or a folder after packing it. Also returns whether the server had the same
/// bytes already.
pub(crate) async fn push(
    client: &Client,
    path: &Path,
    name: Option<&str>,
    args: PackArgs,
) -> Result<(v1::Bundle, bool), Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    let begin = |digest: Digest, size_bytes| v1::UploadBegin {
        size_bytes,
        digest: digest.to_string(),
        name: name.unwrap_or_default().to_owned(),
        signatures: Vec::new(),
        allow_unknown: args.allow_unknown,
    };
    if metadata.is_dir() {
        let packed = pack::pack(path, &std::env::temp_dir(), None, args).await?;
        pack::print_notes(&packed.notes);
        let pushed = upload(client, &packed.file, begin(packed.digest, packed.size)).await?;
        return match pushed {
            Ok(pushed) => Ok(pushed),
            Err(status) => {
                let inspected = &packed.inspected;
                Err(taken(client, status, inspected, name, Some((path, args))).await)
            }
        };
    }
    // Checked here first, so that a mistake costs no upload.
    let inspected = pack::inspect(path, args.allow_unknown).await?;
    let (digest, size) = pack::digest(path).await?;
    match upload(client, path, begin(digest, size)).await? {
        Ok(pushed) => Ok(pushed),
        Err(status) => Err(taken(client, status, &inspected, name, None).await),
    }
}

/// Why an upload was refused. When a bundle of this name and version is there in the other
/// compression, a folder is packed that way too: only so is it known whether its files differ.
async fn taken(
    client: &Client,
    status: Status,
    pushed: &Inspected,
    name: Option<&str>,
    folder: Option<(&Path, PackArgs)>,
) -> Failure {
    let is_taken = reason(&status) == Some(Reason::AlreadyExists);
    let failure = Failure::of_call(
        status,
        Reason::AlreadyExists,
        "Raise `version` in manifest.json: bundles never change.",
    );
    if !is_taken {
        return failure;
    }
    let manifest = &pushed.manifest;
    let name = name.unwrap_or_else(|| manifest.name_or_default());
    let reference = format!("{name}:{}", manifest.version);
    let Ok(stored) = find(client, &reference).await else {
        return failure;
    };
    let there = match stored.format() {
        v1::BundleFormat::TarGz => Format::TarGz,
        v1::BundleFormat::TarZst => Format::TarZst,
        v1::BundleFormat::Unspecified => return failure,
    };
    if there == pushed.format {
        return failure;
    }
    let (theirs, ours) = (there.extension(), pushed.format.extension());
    let Some((path, args)) = folder else {
        return Failure {
            message: format!(
                "{reference} exists already, as {theirs}; this is {ours}, which is other bytes also of the same files"
            ),
            ..failure
        };
    };
    let args = PackArgs {
        zstd: !args.zstd,
        ..args
    };
    match pack::pack(path, &std::env::temp_dir(), None, args).await {
        Ok(packed) if packed.digest.to_string() == stored.digest => Failure {
            message: format!(
                "{reference} exists already with the same files, as {theirs}; as {ours} they are other bytes"
            ),
            next: if args.zstd {
                format!(
                    "Nothing has to be pushed: deploy {reference}, or push with `--zstd` as before."
                )
            } else {
                format!(
                    "Nothing has to be pushed: deploy {reference}, or push without `--zstd` as before."
                )
            },
            ..failure
        },
        _ => failure,
    }
}

/// Most attempts at one upload when connections break.
const MOST_TRIES: u32 = 5;
/// Pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Uploads a bundle, and tries again when the connection breaks. The server recognises bytes by
/// their digest, so nothing is stored twice. Also returns how the server refused it.
async fn upload(
    client: &Client,
    path: &Path,
    begin: v1::UploadBegin,
) -> Result<Result<(v1::Bundle, bool), Status>, Failure> {
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    loop {
        let status = match upload_once(client, path, begin.clone()).await? {
            Ok(answer) => return Ok(Ok((present(answer.bundle, "bundle")?, answer.existed))),
            Err(status) => status,
        };
        if !is_passing(&status) || tries == MOST_TRIES {
            return Ok(Err(status));
        }
        print_note(&format!(
            "The connection broke; pushing again ({tries} of {}).",
            MOST_TRIES - 1
        ));
        tokio::time::sleep(pause).await;
        pause *= 2;
        tries += 1;
    }
}

async fn upload_once(
    client: &Client,
    path: &Path,
    begin: v1::UploadBegin,
) -> Result<Result<v1::UploadBundleResponse, Status>, Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::file("read", path, &error))?;
    let bar = transfer("pushing", begin.size_bytes);
    let begin = v1::UploadBundleRequest {
        message: Some(v1::upload_bundle_request::Message::Begin(begin)),
    };
    let moved = bar.clone();
    let chunks = futures::stream::unfold(file, move |mut file| {
        let moved = moved.clone();
        async move {
            // When the file cannot be read to its end, the digest does not match, and the server
            // refuses it.
            let chunk = read_chunk(&mut file)
                .await
                .ok()
                .filter(|chunk| !chunk.is_empty())?;
            moved.inc(chunk.len() as u64);
            let message = v1::upload_bundle_request::Message::Chunk(chunk);
            Some((
                v1::UploadBundleRequest {
                    message: Some(message),
                },
                file,
            ))
        }
    });
    let messages = futures::StreamExt::chain(futures::stream::iter([begin]), chunks);
    let mut bundles = client.bundles();
    let answer = moving(&bar, bundles.upload_bundle(messages)).await;
    bar.finish_and_clear();
    Ok(answer.map(tonic::Response::into_inner))
}

async fn read_chunk(file: &mut tokio::fs::File) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK_SIZE);
    while chunk.len() < CHUNK_SIZE {
        let room = CHUNK_SIZE - chunk.len();
        if (&mut *file).take(room as u64).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}
