//! The only walk through an archive: each entry is checked, added to the tree and, when unpacking,
//! written. An entry that is refused is passed over, so that the others that are refused are found
//! as well; in the end nothing of such an archive is taken.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_stream::StreamExt as _;
use tokio_tar::{Archive, Entry, EntryType};

use super::{
    ArchiveError, Findings, Format, Inspected, Limits,
    path::{self, EntryPath},
    pax,
    reader::{Meter, TarStream, corrupt, too_many_bytes},
    start::{FirstLine, Start},
    tree::{Node, Tree, Walked, too_many_entries},
    unpack::Disk,
};
use crate::manifest::{MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, ManifestError};

/// Most bytes of headers, long names and attributes that may come before one entry.
const HEADER_ALLOWANCE: u64 = 1024 * 1024;

/// Bytes of a file that are in memory at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Set-id bits would let a file run as another user or group; a sticky file has no meaning. Folders
/// lose these bits: on shared disks every folder has one.
const SPECIAL_BITS: u32 = 0o7000;

/// The part of a mode that is kept: only the owner may change what runs on a device.
const KEPT_BITS: u32 = 0o755;

const RENAME: &str = "Rename it, or leave it out when packing.";
const LEAVE_OUT: &str = "Leave it out with a line in `.kernexignore`, or with `tar --exclude`.";
const BITS: &str =
    "Remove the bit with `chmod u-s,g-s,-t`, and set it in a script where it is needed.";
const SPARSE: &str = "Pack without `--sparse`; a file with holes is packed as what it reads as.";
const INCREMENTAL: &str = "Pack without `--listed-incremental`.";
const DEREFERENCE: &str = "Pack with `tar --hard-dereference`, and name each file once.";
const REPACK: &str = "Pack it again with `kernexctl bundle pack DIR`.";

/// What was seen in a whole archive, before it is judged.
pub(super) struct Seen {
    format: Format,
    pub(super) tree: Tree,
    /// The folder that is the bundle, if it has a manifest.
    pub(super) root: Option<EntryPath>,
    /// The manifest, byte for byte, and what it says.
    pub(super) manifest: Option<(Vec<u8>, Result<Manifest, ManifestError>)>,
    unpacked_bytes: u64,
    /// Every entry that is refused.
    pub(super) refused: Findings,
}

impl Seen {
    /// The archive, if nothing is wrong with it.
    pub(super) fn accept(self) -> Result<Walked, ArchiveError> {
        if !self.refused.is_empty() {
            return Err(ArchiveError::Unsafe(self.refused));
        }
        let (Some(root), Some((manifest_json, manifest))) = (self.root, self.manifest) else {
            return Err(ArchiveError::ManifestMissing);
        };
        #[cfg(not(feature = "unpack"))]
        drop(root);
        Ok(Walked {
            inspected: Inspected {
                format: self.format,
                manifest: manifest?,
                manifest_json,
                unpacked_bytes: self.unpacked_bytes,
                entries: self.tree.len(),
            },
            #[cfg(feature = "unpack")]
            tree: self.tree,
            #[cfg(feature = "unpack")]
            root,
        })
    }
}

/// Walks the whole archive; writes it to `disk` if there is one.
pub(super) async fn walk<R>(
    reader: R,
    limits: &Limits,
    disk: &mut Option<Disk>,
) -> Result<Seen, ArchiveError>
where
    R: AsyncRead + Unpin + Send,
{
    let (mut stream, format, meter) = TarStream::open(reader, limits).await?;
    let mut walk = Walk {
        limits,
        meter: &meter,
        disk,
        tree: Tree::default(),
        unpacked_bytes: 0,
        manifests: Vec::new(),
        refused: Findings::default(),
        buffer: vec![0; BUFFER_BYTES],
    };
    let walked = walk.entries(&mut stream).await;
    let Walk {
        tree,
        unpacked_bytes,
        manifests,
        mut refused,
        ..
    } = walk;
    let ended = match walked {
        Ok(()) => stream.finish().await,
        Err(error) => Err(error),
    };
    match ended {
        // This refusal ended the walk.
        Err(ArchiveError::Unsafe(last)) => {
            refused.append(last);
            return Err(ArchiveError::Unsafe(refused));
        }
        ended => ended?,
    }
    let root = tree.root();
    let manifest = root.as_ref().and_then(|root| {
        let at = root.join(MANIFEST_FILE.as_bytes());
        let (_, bytes) = manifests.into_iter().find(|(path, _)| *path == at)?;
        let manifest = Manifest::parse(&bytes);
        Some((bytes, manifest))
    });
    if let (Some(root), Some((_, Ok(manifest)))) = (&root, &manifest)
        && !manifest.allows_any_link()
    {
        tree.check_links(root, &mut refused);
    }
    Ok(Seen {
        format,
        tree,
        root,
        manifest,
        unpacked_bytes,
        refused,
    })
}

struct Walk<'a> {
    limits: &'a Limits,
    meter: &'a Meter,
    disk: &'a mut Option<Disk>,
    tree: Tree,
    unpacked_bytes: u64,
    /// At most two: the one at the root, and the first one in a folder below it.
    manifests: Vec<(EntryPath, Vec<u8>)>,
    refused: Findings,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// All entries, one after the other.
    async fn entries<R>(&mut self, stream: &mut TarStream<R>) -> Result<(), ArchiveError>
    where
        R: AsyncRead + Unpin + Send,
    {
        let mut archive = Archive::new(stream);
        let entries = archive.entries();
        let mut entries = entries.map_err(|error| self.meter.explain(error))?;
        let mut passed_over = 0;
        loop {
            self.meter
                .allow(HEADER_ALLOWANCE.saturating_add(passed_over));
            let Some(entry) = entries.next().await else {
                return Ok(());
            };
            let mut entry = entry.map_err(|error| self.meter.explain(error))?;
            passed_over = 0;
            match self.entry(&mut entry).await {
                Err(ArchiveError::Unsafe(found)) => {
                    self.refused.append(found);
                    passed_over = entry.effective_size();
                    let entries = self.tree.len().saturating_add(self.refused.total());
                    if entries > self.limits.max_entries {
                        return Err(too_many_entries(self.limits));
                    }
                }
                checked => checked?,
            }
        }
    }

    async fn entry<R>(&mut self, entry: &mut Entry<R>) -> Result<(), ArchiveError>
    where
        R: AsyncRead + Unpin + Send,
    {
        let name = self.ok(entry.path_bytes())?.into_owned();
        let refuse = |why: &str, way_out| Err(ArchiveError::unsafe_entry(&name, why, way_out));
        let kind = entry.header().entry_type();
        let size = entry.effective_size();
        if kind == EntryType::XGlobalHeader {
            return self.global(&name, entry, size).await;
        }
        let meter = self.meter;
        let extensions = entry.pax_extensions().await;
        for extension in extensions
            .map_err(|e| meter.explain(e))?
            .into_iter()
            .flatten()
        {
            if pax::is_sparse(self.ok(extension)?.key_bytes()) {
                return refuse("is a sparse file", SPARSE);
            }
        }
        // First of all: the other fields of such an entry look like those of a usual file.
        match kind {
            EntryType::GNUSparse => return refuse("is a sparse file", SPARSE),
            EntryType::Other(b'D') => {
                return refuse("is a folder of an incremental backup", INCREMENTAL);
            }
            _ => {}
        }
        let at = match path::entry_path(&name) {
            Ok(path) => path,
            Err(why) => return refuse(why, RENAME),
        };
        let mode = self.ok(entry.header().mode())?;
        let is_file = matches!(kind, EntryType::Regular | EntryType::Link);
        if is_file && mode & SPECIAL_BITS != 0 {
            return refuse("has a set-user-id, set-group-id or sticky bit", BITS);
        }
        let mode = mode & KEPT_BITS;
        if kind != EntryType::Regular && size != 0 {
            return refuse("has data where only files have", REPACK);
        }
        if at.is_root() {
            // `tar czf app.tar.gz .` begins with the folder itself.
            return match kind {
                EntryType::Directory => Ok(()),
                _ => refuse("has no name", REPACK),
            };
        }
        match kind {
            EntryType::Directory => self.add(&at, Node::Folder { mode: Some(mode) }),
            EntryType::Regular if name.ends_with(b"/") => {
                refuse("is a file named like a folder", RENAME)
            }
            EntryType::Regular => {
                self.count(size)?;
                let start = Start::default();
                self.add(&at, Node::File { mode, size, start })?;
                self.file(&at, entry, mode, size).await
            }
            EntryType::Symlink => {
                let target = self.ok(entry.link_name_bytes())?.ok_or_else(no_target)?;
                match path::link_target(&target) {
                    Ok(target) => self.add(&at, Node::Symlink { target }),
                    Err(why) => refuse(why, RENAME),
                }
            }
            EntryType::Link => {
                let target = self.ok(entry.link_name_bytes())?.ok_or_else(no_target)?;
                let Ok(from) = path::entry_path(&target) else {
                    return refuse("is a hard link that leads out of the bundle", DEREFERENCE);
                };
                let Some(file @ Node::File { .. }) = self.tree.get(&from).cloned() else {
                    let why = "is a hard link to something that is not an earlier file";
                    return refuse(why, DEREFERENCE);
                };
                if from == at {
                    let why = "is a hard link to itself, so it is in the archive twice";
                    return refuse(why, DEREFERENCE);
                }
                let Node::File { mode, size, .. } = file else {
                    return Ok(());
                };
                self.count(size)?;
                self.add(&at, file)?;
                match &mut self.disk {
                    Some(disk) => disk.copy(&from, &at, mode).await.map_err(ArchiveError::Io),
                    None => Ok(()),
                }
            }
            EntryType::Char | EntryType::Block => refuse("is a device node", LEAVE_OUT),
            EntryType::Fifo => refuse("is a named pipe", LEAVE_OUT),
            _ => refuse("is of a kind that is never unpacked", LEAVE_OUT),
        }
    }

    /// Enters a node into the tree; folders come into being at once, links at the end.
    fn add(&mut self, at: &EntryPath, node: Node) -> Result<(), ArchiveError> {
        let is_folder = matches!(node, Node::Folder { .. });
        let known = self.tree.get(at).is_some();
        let implied = self.tree.insert(at, node, self.limits)?;
        if let Some(disk) = &mut self.disk {
            let own = (is_folder && !known).then_some(at);
            for folder in implied.iter().chain(own) {
                disk.folder(folder).map_err(ArchiveError::Io)?;
            }
        }
        Ok(())
    }

    /// Reads a file to its end, into the manifest's place or the disk's, or both.
    async fn file<R>(
        &mut self,
        at: &EntryPath,
        entry: &mut Entry<R>,
        mode: u32,
        size: u64,
    ) -> Result<(), ArchiveError>
    where
        R: AsyncRead + Unpin + Send,
    {
        self.meter.allow(size);
        let mut manifest = self.is_manifest(at).then(Vec::new);
        let mut file = self.disk.as_mut().map(|disk| disk.create(at));
        let mut first_line = FirstLine::default();
        let mut read = 0;
        loop {
            let count = entry.read(&mut self.buffer).await;
            let count = count.map_err(|error| self.meter.explain(error))?;
            let Some(bytes) = self.buffer.get(..count).filter(|b| !b.is_empty()) else {
                break;
            };
            read += count as u64;
            first_line.read_piece(bytes);
            if let Some(manifest) = &mut manifest {
                // One byte more than allowed is enough to be refused.
                let room = (MAX_MANIFEST_BYTES + 1).saturating_sub(manifest.len());
                manifest.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            }
            if let Some(file) = &mut file {
                file.write(bytes).await.map_err(ArchiveError::Io)?;
            }
        }
        if read != size {
            return Err(corrupt("it ends in the middle of a file"));
        }
        self.tree.note_start(at, first_line.start());
        if let Some(bytes) = manifest {
            self.manifests.push((at.clone(), bytes));
        }
        match (&mut self.disk, file) {
            (Some(disk), Some(file)) => disk.close(file, mode).await.map_err(ArchiveError::Io),
            _ => Ok(()),
        }
    }

    async fn global<R>(
        &mut self,
        name: &[u8],
        entry: &mut Entry<R>,
        size: u64,
    ) -> Result<(), ArchiveError>
    where
        R: AsyncRead + Unpin + Send,
    {
        let refuse = |why| Err(ArchiveError::unsafe_entry(name, why, REPACK));
        if size > pax::MAX_GLOBAL_BYTES {
            return refuse("is a global header larger than any real one");
        }
        let mut body = Vec::new();
        let read = entry.read_to_end(&mut body).await;
        read.map_err(|error| self.meter.explain(error))?;
        pax::check_global(&body).or_else(refuse)
    }

    /// Adds to the size of what is unpacked, before a byte of it is.
    fn count(&mut self, size: u64) -> Result<(), ArchiveError> {
        self.unpacked_bytes = self
            .unpacked_bytes
            .checked_add(size)
            .filter(|sum| *sum <= self.limits.max_unpacked_bytes)
            .ok_or_else(|| too_many_bytes(self.limits))?;
        Ok(())
    }

    /// Whether this may turn out to be the manifest, once the bundle's folder is known.
    fn is_manifest(&self, at: &EntryPath) -> bool {
        let depth = at.depth();
        let first = || !self.manifests.iter().any(|(path, _)| path.depth() == 2);
        at.name() == MANIFEST_FILE.as_bytes() && (depth == 1 || depth == 2 && first())
    }

    fn ok<T>(&self, result: io::Result<T>) -> Result<T, ArchiveError> {
        result.map_err(|error| self.meter.explain(error))
    }
}

fn no_target() -> ArchiveError {
    corrupt("a link has no target")
}
