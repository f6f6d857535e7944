//! The files of `examples/hello`, carried along so that `dev` works from any folder.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

const FILES: [(&str, &str, u32); 2] = [
    (
        "manifest.json",
        include_str!("../../../examples/hello/manifest.json"),
        0o644,
    ),
    (
        "deploy.sh",
        include_str!("../../../examples/hello/deploy.sh"),
        0o755,
    ),
];

pub(super) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text, mode) in FILES {
        let path = folder.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_example_is_a_good_bundle() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let args = crate::args::pack::PackArgs::default();
        let packed = crate::pack::pack(folder.path(), &std::env::temp_dir(), None, args)
            .await
            .unwrap();
        assert_eq!(packed.notes, []);
        assert_eq!(packed.reference(), "hello:1.0.0");
        assert_eq!(packed.inspected.entries, 2);
    }
}
