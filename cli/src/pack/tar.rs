//! Writes entries into an archive, on one thread that may block. The encoder gets pieces of one
//! size, so the bytes do not depend on the speed of the disk.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufWriter, Read, Write},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use indicatif::ProgressBar;
use kernex_proto::archive::Format;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tar::{Builder, EntryType, Header};

use super::{entries::Entries, gzip, unwritten};
use crate::{blocking::Stop, error::Failure, files, output::progress::transfer};

/// Fixed: another level would give other bytes.
const ZSTD_LEVEL: i32 = 6;

/// Bytes that the encoder gets at once.
const PIECE: usize = 1024 * 1024;

/// Writes the archive and makes it durable. Blocks its thread.
pub(super) fn write(
    dir: &Path,
    entries: &Entries,
    format: Format,
    file: File,
    stop: &Stop,
) -> Result<(), Failure> {
    let total = entries.values().filter(|entry| entry.is_file());
    let bar = transfer("packing", total.map(Metadata::len).sum());
    let written = match format {
        Format::TarGz => gzip::compress(file, |out| tar(dir, entries, out, &bar, stop)),
        Format::TarZst => zstd(dir, entries, file, &bar, stop),
    };
    bar.finish_and_clear();
    written?.sync_all().map_err(unwritten)
}

fn zstd(
    dir: &Path,
    entries: &Entries,
    file: File,
    bar: &ProgressBar,
    stop: &Stop,
) -> Result<File, Failure> {
    let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL).map_err(unwritten)?;
    encoder.include_checksum(true).map_err(unwritten)?;
    let mut pieces = BufWriter::with_capacity(PIECE, encoder);
    tar(dir, entries, &mut pieces, bar, stop)?;
    let encoder = pieces
        .into_inner()
        .map_err(|error| unwritten(error.into_error()))?;
    encoder.finish().map_err(unwritten)
}

fn tar(
    dir: &Path,
    entries: &Entries,
    out: &mut (dyn Write + Send),
    bar: &ProgressBar,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut tar = Builder::new_non_terminated(Blocking(out));
    // Nothing in it waits; the runtime only lends it a context.
    let all = async {
        for (inside, metadata) in entries {
            let path = dir.join(inside);
            add(&mut tar, inside, &path, metadata, bar, stop)
                .await
                .map_err(|error| Failure::file("pack", &path, &error))?;
        }
        tar.finish().await.map_err(unwritten)
    };
    tokio::runtime::Handle::current().block_on(all)
}

async fn add<W: AsyncWrite + Unpin + Send>(
    tar: &mut Builder<W>,
    inside: &Path,
    path: &Path,
    metadata: &Metadata,
    bar: &ProgressBar,
    stop: &Stop,
) -> io::Result<()> {
    stop.check()?;
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode(path, metadata)?);
        tar.append_data(&mut header, inside, tokio::io::empty())
            .await
    } else if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_link_name(fs::read_link(path)?)?;
        tar.append_data(&mut header, inside, tokio::io::empty())
            .await
    } else {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode(path, metadata)?);
        header.set_size(size);
        let bytes = Blocking(bar.wrap_read(stop.reader(Read::take(&file, size))));
        tar.append_data(&mut header, inside, bytes).await?;
        // A file that changed its size meanwhile would damage the archive.
        if file.metadata()?.len() != size {
            return Err(io::Error::other("it changed while it was packed"));
        }
        Ok(())
    }
}

/// The mode to pack: 0600 stays 0600, 0664 becomes 0644.
fn mode(path: &Path, metadata: &Metadata) -> io::Result<u32> {
    Ok(files::mode(path, metadata)? & 0o755)
}

/// A blocking reader or writer behind an asynchronous interface; it never waits.
pub(super) struct Blocking<T>(pub(super) T);

impl<T: Read + Unpin> AsyncRead for Blocking<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + ?Sized> AsyncWrite for Blocking<&mut T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
