//! Moves bundles up and down, with a bar, and believes nothing but the digest.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use kernex_proto::{CHUNK_SIZE, ids::Digest, v1};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Request, Status};

use super::present;
use crate::{
    client::{Client, call, call_raw, timed},
    error::{Exit, Failure, is_passing},
    output::progress::transfer,
    pack,
};

/// How often a download that breaks off goes on from where it was.
const MOST_RESUMES: u32 = 5;

/// Pushes an archive, or a folder after packing it. Says whether the same bytes were there already.
pub(crate) async fn push(
    client: &Client,
    path: &Path,
    name: Option<&str>,
) -> Result<(v1::Bundle, bool), Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    if metadata.is_dir() {
        let packed = pack::pack(path, &std::env::temp_dir(), None).await?;
        return upload(client, &packed.file, packed.digest, packed.size, name).await;
    }
    // Found out here, a mistake costs no upload.
    pack::inspect(path).await?;
    let (digest, size) = pack::digest(path)?;
    upload(client, path, digest, size, name).await
}

async fn upload(
    client: &Client,
    path: &Path,
    digest: Digest,
    size: u64,
    name: Option<&str>,
) -> Result<(v1::Bundle, bool), Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::file("read", path, &error))?;
    let bar = transfer("pushing", size);
    let begin = v1::UploadBundleRequest {
        message: Some(v1::upload_bundle_request::Message::Begin(v1::UploadBegin {
            size_bytes: size,
            digest: digest.to_string(),
            name: name.unwrap_or_default().to_owned(),
            signatures: Vec::new(),
        })),
    };
    let moved = bar.clone();
    let chunks = futures::stream::unfold(file, move |mut file| {
        let moved = moved.clone();
        async move {
            // A file that cannot be read to its end gives other bytes than the digest says, and is refused.
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
    let answer = call(
        "kernex.v1.BundleService/UploadBundle",
        client.bundles().upload_bundle(Request::new(messages)),
    )
    .await;
    bar.finish_and_clear();
    let answer = answer?;
    Ok((present(answer.bundle, "bundle")?, answer.existed))
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

/// One bundle by name:version or digest.
pub(crate) async fn find(client: &Client, bundle: &str) -> Result<v1::Bundle, Failure> {
    let request = v1::GetBundleRequest {
        bundle: bundle.to_owned(),
    };
    let answer = call(
        "kernex.v1.BundleService/GetBundle",
        client.bundles().get_bundle(timed(request)),
    )
    .await?;
    present(answer.bundle, "bundle")
}

/// Fetches a bundle into a file, which appears only when it is whole and right. Says which file.
pub(crate) async fn pull(
    client: &Client,
    bundle: &str,
    output: Option<PathBuf>,
) -> Result<PathBuf, Failure> {
    let bundle = find(client, bundle).await?;
    let path = output.unwrap_or_else(|| usual_name(&bundle).into());
    let near = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let file =
        NamedTempFile::new_in(&near).map_err(|error| Failure::file("write in", &near, &error))?;
    let (file, place) = file.into_parts();
    let bar = transfer("pulling", bundle.size_bytes);
    let fetched = fetch(
        client,
        &bundle,
        tokio::fs::File::from_std(file),
        &place,
        &bar,
    )
    .await;
    bar.finish_and_clear();
    fetched?;

    let (digest, size) = pack::digest(&place)?;
    if digest.to_string() != bundle.digest || size != bundle.size_bytes {
        return Err(Failure::new(
            Exit::Error,
            format!(
                "what came has the SHA-256 {digest}, not the bundle's {}",
                bundle.digest
            ),
            "Pull again; if it happens twice, the server's store is damaged.",
        ));
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o644))
        .and_then(|()| place.persist(&path).map_err(|error| error.error))
        .map_err(|error| Failure::file("write", &path, &error))?;
    Ok(path)
}

/// The server's words become part of a path, so they are checked like anyone else's.
fn usual_name(bundle: &v1::Bundle) -> String {
    let extension = match bundle.format() {
        v1::BundleFormat::TarZst => "tar.zst",
        v1::BundleFormat::TarGz | v1::BundleFormat::Unspecified => "tar.gz",
    };
    let name = format!("{}-{}.{extension}", bundle.name, bundle.version);
    if kernex_proto::ids::check_name("file name", &name).is_ok() {
        name
    } else {
        format!(
            "{}.{extension}",
            bundle.digest.get(..12).unwrap_or("bundle")
        )
    }
}

async fn fetch(
    client: &Client,
    bundle: &v1::Bundle,
    mut file: tokio::fs::File,
    place: &Path,
    bar: &indicatif::ProgressBar,
) -> Result<(), Failure> {
    let mut offset = 0;
    let mut resumes = 0;
    loop {
        match fetch_from(client, &bundle.digest, &mut offset, &mut file, bar).await {
            Ok(()) => break,
            Err(Broken::Disk(error)) => return Err(Failure::file("write", place, &error)),
            Err(Broken::Wire(status)) if is_passing(&status) && resumes < MOST_RESUMES => {
                resumes += 1;
                tokio::time::sleep(std::time::Duration::from_secs(1 << resumes.min(4))).await;
            }
            Err(Broken::Wire(status)) => return Err(Failure::from(*status)),
        }
    }
    file.sync_all()
        .await
        .map_err(|error| Failure::file("write", place, &error))
}

enum Broken {
    Wire(Box<Status>),
    Disk(std::io::Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Wire(Box::new(status))
    }
}

async fn fetch_from(
    client: &Client,
    digest: &str,
    offset: &mut u64,
    file: &mut tokio::fs::File,
    bar: &indicatif::ProgressBar,
) -> Result<(), Broken> {
    let request = v1::FetchBundleRequest {
        bundle: digest.to_owned(),
        offset: *offset,
    };
    let mut chunks = call_raw(
        "kernex.v1.BundleService/FetchBundle",
        client.bundles().fetch_bundle(Request::new(request)),
    )
    .await?;
    while let Some(message) = chunks.message().await? {
        file.write_all(&message.chunk).await.map_err(Broken::Disk)?;
        *offset += message.chunk.len() as u64;
        bar.set_position(*offset);
    }
    file.flush().await.map_err(Broken::Disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_cannot_leave_the_folder() {
        let bundle = |name: &str, version: &str| v1::Bundle {
            name: name.into(),
            version: version.into(),
            digest: "ab".repeat(32),
            ..Default::default()
        };
        assert_eq!(usual_name(&bundle("app", "1.0")), "app-1.0.tar.gz");
        assert_eq!(usual_name(&bundle("../x", "1")), "abababababab.tar.gz");
        assert_eq!(usual_name(&bundle("x", "/etc/y")), "abababababab.tar.gz");
    }
}
