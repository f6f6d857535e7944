//! `bundle pack`

use std::{
    fs,
    path::{Path, PathBuf},
};

use kernex_proto::archive::Format;

use crate::{
    args::pack::PackArgs,
    error::Failure,
    output::{bytes, counted, emit, print_note},
    pack,
};

/// Makes an archive of a folder.
pub(super) async fn run(
    dir: &Path,
    output: Option<PathBuf>,
    args: PackArgs,
) -> Result<(), Failure> {
    let near = match output.as_deref().map(Path::parent) {
        Some(Some(parent)) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Without a name the file gets its name from the manifest. On a second run that file may be in
    // the folder; it is left out.
    let guess = match &output {
        Some(path) => Some(path.clone()),
        None => usual_name(dir, args.zstd),
    };
    let packed = pack::pack(dir, &near, guess.as_deref(), args).await?;
    pack::print_notes(&packed.notes);
    let path = output.unwrap_or_else(|| packed.file_name().into());
    print_note(&format!(
        "Packed {} with {}, {} ({} unpacked), SHA-256 {}",
        packed.reference(),
        counted(packed.inspected.entries, "entry"),
        bytes(packed.size),
        bytes(packed.inspected.unpacked_bytes),
        packed.digest
    ));
    packed.move_to(&path)?;
    emit(&format!("{}\n", path.display()))
}

fn usual_name(dir: &Path, zstd: bool) -> Option<PathBuf> {
    let bytes = fs::read(dir.join(kernex_proto::manifest::MANIFEST_FILE)).ok()?;
    let manifest = kernex_proto::manifest::Manifest::parse(&bytes).ok()?;
    let ending = if zstd { Format::TarZst } else { Format::TarGz };
    let (name, version) = (manifest.name_or_default(), &manifest.version);
    Some(format!("{name}-{version}.{}", ending.extension()).into())
}
