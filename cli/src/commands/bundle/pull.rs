//! `bundle pull`: downloads a bundle, with a progress bar, and checks its digest.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use kernex_proto::v1;
use tempfile::{NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt as _;
use tonic::Status;

use super::get::find;
use crate::{
    blocking::{self, Stop},
    client::Client,
    commands::Session,
    error::{Exit, Failure, is_passing},
    files,
    output::{
        emit, print_note,
        progress::{moving, transfer},
    },
    pack,
};

/// How often a download that breaks off is resumed.
const MOST_RESUMES: u32 = 5;

/// Stands for the standard output in place of a file.
const STDOUT: &str = "-";

/// Downloads a bundle into a file and prints its name, or writes it to the standard output.
pub(super) async fn run(
    session: &Session,
    bundle: &str,
    output: Option<PathBuf>,
    force: bool,
) -> Result<(), Failure> {
    let to_stdout = output.as_deref() == Some(Path::new(STDOUT));
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::usage(
            "an archive is not for a terminal",
            "Send it into a pipe or a file.",
        ));
    }
    let client = session.connect().await?;
    let bundle = find(&client, bundle).await?;
    if to_stdout {
        let place = pull(&client, &bundle, &std::env::temp_dir()).await?;
        return write_out(&place).await;
    }
    let path = output.unwrap_or_else(|| usual_name(&bundle).into());
    if !force && is_there(&path, &bundle).await? {
        print_note("It is there already, with the same bytes.");
        return emit(&format!("{}\n", path.display()));
    }
    let near = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let place = pull(&client, &bundle, &near).await?;
    files::share(&place)
        .and_then(|()| {
            let placed = match force {
                true => place.persist(&path),
                false => place.persist_noclobber(&path),
            };
            placed.map_err(|error| error.error)
        })
        .map_err(|error| Failure::file("write", &path, &error))?;
    emit(&format!("{}\n", path.display()))
}

/// Whether a file is this bundle already. What is something else is not replaced.
async fn is_there(path: &Path, bundle: &v1::Bundle) -> Result<bool, Failure> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    let is_same = found.is_file()
        && found.len() == bundle.size_bytes
        && pack::digest(path).await?.0.to_string() == bundle.digest;
    if is_same {
        return Ok(true);
    }
    Err(Failure::new(
        Exit::NotFoundOrConflict,
        format!(
            "`{}` is there already, and is something else",
            path.display()
        ),
        "Choose another file with `-o`, or replace it with `--force`.",
    ))
}

/// Writes a file to the standard output. A reader that ends early is no error.
async fn write_out(place: &Path) -> Result<(), Failure> {
    let file = fs::File::open(place).map_err(|error| Failure::file("read", place, &error))?;
    let copy = move |stop: &Stop| io::copy(&mut stop.reader(file), &mut io::stdout().lock());
    match blocking::run(copy).await? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Error,
            format!("cannot write to the standard output: {error}"),
            "Check where the output goes.",
        )),
        _ => Ok(()),
    }
}

/// Downloads a bundle into a temporary file in a folder. The file is there only when it is complete
/// and correct.
async fn pull(client: &Client, bundle: &v1::Bundle, near: &Path) -> Result<TempPath, Failure> {
    let file =
        NamedTempFile::new_in(near).map_err(|error| Failure::file("write in", near, &error))?;
    let (file, place) = file.into_parts();
    let bar = transfer("pulling", bundle.size_bytes);
    let fetched = fetch(
        client,
        bundle,
        tokio::fs::File::from_std(file),
        &place,
        &bar,
    )
    .await;
    bar.finish_and_clear();
    fetched?;

    let (digest, size) = pack::digest(&place).await?;
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
    Ok(place)
}

/// Name and version come from the server and become part of a path, so they are checked.
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
        let fetched = fetch_from(client, &bundle.digest, &mut offset, &mut file, bar);
        match moving(bar, fetched).await {
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
    let mut chunks = client.bundles().fetch_bundle(request).await?.into_inner();
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
