//! `bundle`: make, push and fetch bundles.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use kernex_proto::{error::Reason, ids::check_name, v1};
use tonic::Status;

use super::{Session, confirm, transfer};
use crate::{
    args::BundleCommand,
    client::{Client, call, call_raw, pages, request_id, timed},
    error::{Failure, reason},
    output::{Printer, bundle::BundleView, bytes, emit, say},
    pack::{self, IGNORE_FILE},
};

/// Runs one of the verbs.
pub(super) async fn run(session: &Session, command: BundleCommand) -> Result<(), Failure> {
    match command {
        BundleCommand::Init { dir, name } => init(&dir, name),
        BundleCommand::Pack { dir, output } => pack_folder(&dir, output).await,
        BundleCommand::Push { path, name, output } => {
            let client = session.connect().await?;
            let (bundle, existed) = transfer::push(&client, &path, name.as_deref()).await?;
            if existed {
                say("The same bytes were there already.");
            }
            Printer::new(output.output).one(&BundleView::from(bundle))
        }
        BundleCommand::Pull { bundle, output } => {
            let client = session.connect().await?;
            let path = transfer::pull(&client, &bundle, output).await?;
            emit(&format!("{}\n", path.display()))
        }
        BundleCommand::List { name, output } => {
            let client = session.connect().await?;
            let views: Vec<BundleView> = list(&client, &name)
                .await?
                .into_iter()
                .map(BundleView::from)
                .collect();
            Printer::new(output.output).list(&views)
        }
        BundleCommand::Get { bundle, output } => {
            let client = session.connect().await?;
            let bundle = transfer::find(&client, &bundle).await?;
            Printer::new(output.output).one(&BundleView::from(bundle))
        }
        BundleCommand::Delete {
            bundle: Some(bundle),
            consent,
            ..
        } => {
            confirm(
                consent,
                &format!("Delete the bundle {bundle} from the server?"),
            )?;
            let client = session.connect().await?;
            delete(&client, &bundle).await?;
            say(&format!("The bundle {bundle} is deleted."));
            Ok(())
        }
        BundleCommand::Delete {
            bundle: None,
            older_than,
            consent,
            ..
        } => {
            confirm(
                consent,
                "Delete every bundle that no device and no deployment needs?",
            )?;
            collect(&session.connect().await?, older_than).await
        }
    }
}

async fn delete(client: &Client, bundle: &str) -> Result<(), Status> {
    let request = v1::DeleteBundleRequest {
        bundle: bundle.to_owned(),
        request_id: request_id(),
    };
    call_raw(
        "kernex.v1.BundleService/DeleteBundle",
        client.bundles().delete_bundle(timed(request)),
    )
    .await
    .map(|_| ())
}

/// Deletes what the server does not refuse to delete; names it on stdout, one a line.
async fn collect(client: &Client, older_than: Duration) -> Result<(), Failure> {
    // What claims to come from the future is young.
    let age = |bundle: &v1::Bundle| {
        let created = bundle.created_at.unwrap_or_default().seconds;
        let seconds = Timestamp::now().as_second().saturating_sub(created);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    };
    let (mut deleted, mut freed, mut needed) = (0, 0, 0);
    for bundle in list(client, "").await? {
        if age(&bundle) < older_than {
            continue;
        }
        let reference = format!("{}:{}", bundle.name, bundle.version);
        match delete(client, &reference).await {
            Ok(()) => {
                emit(&format!("{reference}\n"))?;
                deleted += 1;
                freed += bundle.size_bytes;
            }
            Err(status) => match reason(&status) {
                Some(Reason::InUse) => needed += 1,
                // Somebody else was faster.
                Some(Reason::NotFound) => {}
                _ => return Err(status.into()),
            },
        }
    }
    say(&format!(
        "{deleted} bundles with {} are deleted, {needed} are needed.",
        bytes(freed)
    ));
    Ok(())
}

async fn list(client: &Client, name: &str) -> Result<Vec<v1::Bundle>, Failure> {
    pages(None, |page_size, page_token| {
        let (client, name) = (client.clone(), name.to_owned());
        async move {
            let request = v1::ListBundlesRequest {
                name,
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.BundleService/ListBundles",
                client.bundles().list_bundles(timed(request)),
            )
            .await?;
            Ok((page.bundles, page.next_page_token))
        }
    })
    .await
}

async fn pack_folder(dir: &Path, output: Option<PathBuf>) -> Result<(), Failure> {
    let near = match output.as_deref().map(Path::parent) {
        Some(Some(parent)) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Without a name the file is called after the manifest, which may be packed into itself only on a second run.
    let guess = match &output {
        Some(path) => Some(path.clone()),
        None => usual_name(dir),
    };
    let packed = pack::pack(dir, &near, guess.as_deref()).await?;
    let path = output.unwrap_or_else(|| packed.file_name().into());
    say(&format!(
        "Packed {} with {} entries, {} ({} unpacked), SHA-256 {}",
        packed.reference(),
        packed.inspected.entries,
        bytes(packed.size),
        bytes(packed.inspected.unpacked_bytes),
        packed.digest
    ));
    packed.keep(&path)?;
    emit(&format!("{}\n", path.display()))
}

fn usual_name(dir: &Path) -> Option<PathBuf> {
    let bytes = fs::read(dir.join(kernex_proto::manifest::MANIFEST_FILE)).ok()?;
    let manifest = kernex_proto::manifest::Manifest::parse(&bytes).ok()?;
    Some(format!("{}-{}.tar.gz", manifest.name_or_default(), manifest.version).into())
}

/// Writes the files of a small bundle; what is there already stays.
fn init(dir: &Path, name: Option<String>) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::file("create", dir, &error))?;
    let name = match name {
        Some(name) => {
            check_name("bundle name", &name).map_err(|error| {
                Failure::usage(
                    error.to_string(),
                    "Use letters, digits, `.`, `_` and `-`, starting with a letter or digit.",
                )
            })?;
            name
        }
        None => folder_name(dir),
    };
    let manifest = serde_json::json!({
        "name": name,
        "version": "0.1.0",
        "deploy": { "script": "deploy.sh", "timeout_seconds": 60 },
    });
    let script = "#!/bin/sh\n\
        # Runs on the device, in the folder of the new release. What it prints comes back with the outcome;\n\
        # a non-zero exit keeps the previous release.\n\
        set -eu\n\n\
        echo \"deployed on $(uname -n)\"\n";
    let ignored = "# What stays out of the bundle, in gitignore's form.\n*.tar.gz\n*.tar.zst\n";
    for (file, text, mode) in [
        ("manifest.json", format!("{manifest:#}\n"), 0o644),
        ("deploy.sh", script.to_owned(), 0o755),
        (IGNORE_FILE, ignored.to_owned(), 0o644),
    ] {
        let path = dir.join(file);
        let created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut created| created.write_all(text.as_bytes()));
        match created {
            Ok(()) => say(&format!("Wrote {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                say(&format!("Kept {}, which was there", path.display()));
            }
            Err(error) => return Err(Failure::file("write", &path, &error)),
        }
    }
    say(&format!("Next: `kernexctl bundle push {}`", dir.display()));
    Ok(())
}

/// A good name made of the folder's.
fn folder_name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name: String = full
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        })
        .take(100)
        .collect();
    let name = name.trim_start_matches(['.', '_', '-']).to_owned();
    if check_name("bundle name", &name).is_ok() {
        name
    } else {
        "app".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_init_writes_can_be_packed_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("My app");
        init(&dir, None).unwrap();
        let packed = pack::pack(&dir, &std::env::temp_dir(), None).await.unwrap();
        assert_eq!(packed.reference(), "My-app:0.1.0");
        fs::write(dir.join("deploy.sh"), "mine").unwrap();
        init(&dir, Some("other".into())).unwrap();
        assert_eq!(fs::read_to_string(dir.join("deploy.sh")).unwrap(), "mine");
        assert!(init(&dir, Some("../x".into())).is_err());
    }
}
