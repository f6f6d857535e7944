//! `bundle pack`

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::Failure,
    output::{bytes, emit, print_note},
    pack,
};

/// Makes an archive of a folder.
pub(super) async fn run(dir: &Path, output: Option<PathBuf>) -> Result<(), Failure> {
    let near = match output.as_deref().map(Path::parent) {
        Some(Some(parent)) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Without a name the file gets its name from the manifest. On a second run that file may be in
    // the folder; it is left out.
    let guess = match &output {
        Some(path) => Some(path.clone()),
        None => usual_name(dir),
    };
    let packed = pack::pack(dir, &near, guess.as_deref()).await?;
    let path = output.unwrap_or_else(|| packed.file_name().into());
    print_note(&format!(
        "Packed {} with {} entries, {} ({} unpacked), SHA-256 {}",
        packed.reference(),
        packed.inspected.entries,
        bytes(packed.size),
        bytes(packed.inspected.unpacked_bytes),
        packed.digest
    ));
    packed.move_to(&path)?;
    emit(&format!("{}\n", path.display()))
}

fn usual_name(dir: &Path) -> Option<PathBuf> {
    let bytes = fs::read(dir.join(kernex_proto::manifest::MANIFEST_FILE)).ok()?;
    let manifest = kernex_proto::manifest::Manifest::parse(&bytes).ok()?;
    Some(format!("{}-{}.tar.gz", manifest.name_or_default(), manifest.version).into())
}
