//! `bundle push`: uploads a bundle, with a progress bar.

use std::{path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use kernex_proto::{CHUNK_SIZE, ids::Digest, v1};
use tokio::io::AsyncReadExt as _;
use tonic::Status;

use crate::{
    args::{OutputArg, pack::PackArgs},
    client::Client,
    commands::{Session, present},
    error::{Failure, is_passing},
    output::{Printer, bundle::BundleView, print_note, progress::transfer},
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
        return upload(client, &packed.file, begin(packed.digest, packed.size)).await;
    }
    // Checked here first, so that a mistake costs no upload.
    pack::inspect(path, args.allow_unknown).await?;
    let (digest, size) = pack::digest(path)?;
    upload(client, path, begin(digest, size)).await
}

/// Most attempts at one upload when connections break.
const MOST_TRIES: u32 = 5;
/// Pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Uploads a bundle, and tries again when the connection breaks. The server recognises bytes by
/// their digest, so nothing is stored twice.
async fn upload(
    client: &Client,
    path: &Path,
    begin: v1::UploadBegin,
) -> Result<(v1::Bundle, bool), Failure> {
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    loop {
        let status = match upload_once(client, path, begin.clone()).await? {
            Ok(answer) => return Ok((present(answer.bundle, "bundle")?, answer.existed)),
            Err(status) => status,
        };
        if !is_passing(&status) || tries == MOST_TRIES {
            return Err(status.into());
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
    let answer = client.bundles().upload_bundle(messages).await;
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
