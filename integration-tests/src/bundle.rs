//! Archives for tests, honest and hostile: headers are written by hand, because no honest tool
//! makes the bad ones.

use std::{fs::File, io, path::Path};

use async_compression::{
    Level,
    tokio::write::{GzipEncoder, ZstdEncoder},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

const BLOCK: usize = 512;

/// Kind of a tar entry, as its type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File = b'0' as isize,
    HardLink = b'1' as isize,
    SymbolicLink = b'2' as isize,
    /// A character device.
    Device = b'3' as isize,
    Folder = b'5' as isize,
    /// A named pipe.
    Pipe = b'6' as isize,
}

/// Builds an archive entry by entry, in order.
#[derive(Debug, Clone, Default)]
pub struct BundleBuilder {
    tar: Vec<u8>,
    prefix: String,
}

impl BundleBuilder {
    /// An archive with nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// An archive that opens with this manifest.
    #[must_use]
    pub fn with_manifest(manifest: &Value) -> Self {
        Self::empty().file("manifest.json", manifest.to_string())
    }

    /// A bundle `name:version` whose deploy script is `script`.
    #[must_use]
    pub fn script(name: &str, version: &str, script: &str) -> Self {
        Self::with_manifest(&json!({
            "name": name,
            "version": version,
            "deploy": { "script": script },
        }))
    }

    /// Everything from here on lies in one top-level folder.
    #[must_use]
    pub fn below(mut self, folder: &str) -> Self {
        self.prefix = format!("{folder}/");
        let name = self.prefix.clone();
        self.raw(&name, Kind::Folder, 0o755, "", b"")
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_with_mode(name, 0o644, content)
    }

    /// Adds a regular file with a mode.
    #[must_use]
    pub fn file_with_mode(self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let name = format!("{}{name}", self.prefix);
        self.raw(&name, Kind::File, mode, "", content.as_ref())
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        let name = format!("{}{name}", self.prefix);
        self.raw(&name, Kind::SymbolicLink, 0o777, target, b"")
    }

    /// Adds an entry exactly as told, whatever it is.
    #[must_use]
    pub fn raw(mut self, name: &str, kind: Kind, mode: u32, link: &str, content: &[u8]) -> Self {
        self.tar
            .extend(header(name, kind, mode, link, content.len() as u64));
        self.tar.extend(content);
        self.tar.resize(self.tar.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The archive as `tar.gz`.
    ///
    /// # Panics
    /// Never: it is compressed in memory.
    pub async fn gzip(mut self) -> Vec<u8> {
        self.tar.extend([0; 2 * BLOCK]);
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder
            .write_all(&self.tar)
            .await
            .expect("memory can be written");
        encoder.shutdown().await.expect("memory can be written");
        encoder.into_inner()
    }

    /// The archive as `tar.zst`.
    ///
    /// # Panics
    /// Never: it is compressed in memory.
    pub async fn zstd(mut self) -> Vec<u8> {
        self.tar.extend([0; 2 * BLOCK]);
        let mut encoder = ZstdEncoder::new(Vec::new());
        encoder
            .write_all(&self.tar)
            .await
            .expect("memory can be written");
        encoder.shutdown().await.expect("memory can be written");
        encoder.into_inner()
    }
}

/// Writes a bundle with `megabytes` of bytes that do not compress to a file, in little memory.
pub async fn write_large(
    path: &Path,
    name: &str,
    megabytes: usize,
    script: &str,
) -> io::Result<()> {
    let file = tokio::fs::File::from_std(File::create(path)?);
    // Random bytes only grow when squeezed, so store them as they are.
    let mut out = GzipEncoder::with_quality(tokio::io::BufWriter::new(file), Level::Precise(0));
    let manifest = json!({"name": name, "version": "1.0", "deploy": {"script": script}});
    let opening = BundleBuilder::with_manifest(&manifest);
    out.write_all(&opening.tar).await?;
    let size = (megabytes as u64) << 20;
    out.write_all(&header("payload.bin", Kind::File, 0o644, "", size))
        .await?;
    write_noise(&mut out, megabytes).await?;
    out.write_all(&[0; 2 * BLOCK]).await?;
    out.shutdown().await
}

/// A bundle of moderate size whose bytes do not compress.
///
/// # Panics
/// Never: it is made in memory.
pub async fn noisy(name: &str, version: &str, megabytes: usize, script: &str) -> Vec<u8> {
    let mut noise = Vec::new();
    write_noise(&mut noise, megabytes)
        .await
        .expect("memory can be written");
    let builder = BundleBuilder::script(name, version, script);
    builder.file("payload.bin", noise).gzip().await
}

async fn write_noise(out: &mut (impl AsyncWrite + Unpin), megabytes: usize) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    let mut piece = vec![0; 1 << 20];
    for _ in 0..megabytes {
        random.fill_bytes(&mut piece);
        out.write_all(&piece).await?;
    }
    Ok(())
}

fn header(name: &str, kind: Kind, mode: u32, link: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    assert!(
        name.len() <= 100 && link.len() <= 100,
        "long names are not needed here"
    );
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind as u8]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000001\0");
    put(337, b"0000003\0");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_builder_makes_a_valid_bundle() {
        let bytes = BundleBuilder::script("a", "1", "true")
            .below("top")
            .file("x", "y")
            .gzip()
            .await;
        let archive = async_compression::tokio::bufread::GzipDecoder::new(bytes.as_slice());
        let mut archive = tokio_tar::Archive::new(archive);
        let mut entries = archive.entries().expect("an archive");
        let mut names = Vec::new();
        while let Some(entry) = tokio_stream::StreamExt::next(&mut entries).await {
            let entry = entry.expect("an entry");
            names.push(entry.path().expect("a name").to_string_lossy().into_owned());
        }
        assert_eq!(names, ["manifest.json", "top/", "top/x"]);
    }
}
