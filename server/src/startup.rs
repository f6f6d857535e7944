//! Before the first connection: the data folder, the database, the certificates and the first
//! token. Each error is one clear sentence.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use kernex_proto::{
    ids::{ClusterId, Digest},
    private::restrict,
    service,
};

use crate::{
    api::access::operator_token,
    blobs::Blobs,
    clock::Clock,
    config::{BUNDLES, Config},
    edge::tls::{Identity, sweep_private, write_private},
    store::{AdminToken, Caller, NewOperatorToken, Origin, Role, Scope, Store, StoreError},
};

/// A database that has not answered by then counts as not answering.
const DATABASE_LIMIT: Duration = Duration::from_secs(5);
/// Name of the file with the admin token.
const ADMIN_FILE: &str = "admin.token";
/// Life of the first token. Operators make themselves tokens with shorter ones.
const ADMIN_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// What all parts of the server stand on.
#[derive(Debug)]
pub(crate) struct Foundation {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) cluster: ClusterId,
    pub(crate) identity: Option<Arc<Identity>>,
    /// This start made the admin token.
    pub(crate) first: bool,
    /// Held until the process ends, so that no other server starts on this folder.
    _lock: File,
}

/// Prepares everything that lasts longer than the process.
pub(crate) async fn prepare(config: &Config) -> anyhow::Result<Foundation> {
    let lock = data_folder(&config.data_dir)?;
    sweep_private(&config.data_dir).context("cannot tidy the data folder")?;
    // Before the database, which is made when it is not there: no half of an installation is left
    // when bundles cannot be kept.
    let blobs = Blobs::open(&config.bundles.store)
        .await
        .context("cannot use the bundle store")?;
    let clock = Clock::system();
    let store = database(config, clock.clone()).await?;
    store
        .migrate()
        .await
        .context("cannot bring the database to this version's schema")?;
    let cluster = store.cluster_id().await?;
    let swept = blobs.sweep_temporary().await?;
    if swept > 0 {
        tracing::info!(swept, "unfinished uploads removed");
    }
    let identity = if config.network.plaintext {
        None
    } else {
        let identity = Identity::open_with(
            &config.data_dir,
            &config.network.names(),
            config.network.tls.clone(),
            clock.clone(),
        )?;
        Some(Arc::new(identity))
    };
    let first = !store.has_operator_token().await?;
    if first {
        first_admin_token(&store, &config.data_dir).await?;
    }
    Ok(Foundation {
        clock,
        store,
        blobs,
        cluster,
        identity,
        first,
        _lock: lock,
    })
}

/// Opens the database, and waits for its first answer.
pub(crate) async fn database(config: &Config, clock: Clock) -> anyhow::Result<Store> {
    let opened = async {
        let store = Store::open(&config.database_url, clock).await?;
        store.ping().await?;
        Ok::<_, StoreError>(store)
    };
    // Only the kind is named, because the URL may hold a password.
    let kind = config.database_url.split(':').next().unwrap_or_default();
    match tokio::time::timeout(DATABASE_LIMIT, opened).await {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(error).with_context(|| {
            format!("cannot open the {kind} database; check --database-url and that it runs")
        }),
        Err(_) => bail!(
            "the {kind} database did not answer within 5 s; check --database-url and that it runs"
        ),
    }
}

/// Makes the folder, checks that it can be written to, and keeps other servers out of it.
pub(crate) fn data_folder(folder: &Path) -> anyhow::Result<File> {
    let unusable = || format!("cannot write to the data folder {}", folder.display());
    // For this user only: it holds keys, tokens and the database.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(unusable)?;
    keep_private(folder).with_context(unusable)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("server.lock"))
        .with_context(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another kernex-server uses the data folder {}; stop it or choose another with --data-dir",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(unusable),
    }
}

/// Takes away all rights of other users, also in what an earlier version or an operator made. Of
/// what lies in folders that are in it only bundles are the server's.
fn keep_private(folder: &Path) -> io::Result<()> {
    restrict_entries(folder, false)?;
    let bundles = folder.join(BUNDLES);
    match std::fs::symlink_metadata(&bundles) {
        Ok(meta) if meta.is_dir() => restrict_entries(&bundles, true),
        // Elsewhere, or not made yet.
        _ => Ok(()),
    }
}

fn restrict_entries(folder: &Path, deep: bool) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        restrict(&folder, 0o700)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_file() {
                restrict(&entry.path(), 0o600)?;
            } else if kind.is_dir() && deep {
                folders.push(entry.path());
            } else if kind.is_dir() {
                restrict(&entry.path(), 0o700)?;
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
pub struct AdminTokenFile {
    /// The token, and the ones before it.
    pub made: AdminToken,
    /// The file with the token's text.
    pub path: PathBuf,
}

/// Makes the first admin token, and writes it to its file.
async fn first_admin_token(store: &Store, folder: &Path) -> anyhow::Result<()> {
    let (text, hash) = operator_token();
    // The file goes first: a token in the database whose text is lost would lock everybody out.
    write_private(&folder.join(ADMIN_FILE), format!("{text}\n").as_bytes())?;
    let new = admin_of(hash);
    store
        .for_operators()
        .create_operator_token(&itself("FirstStart"), new)
        .await?;
    Ok(())
}

/// Makes another admin token. The file of the one before is replaced once the new one works, so
/// nothing is lost when there is no database.
pub(crate) async fn new_admin_token(
    store: &Store,
    folder: &Path,
    replace: bool,
) -> anyhow::Result<AdminTokenFile> {
    let path = folder.join(ADMIN_FILE);
    let waiting = folder.join("admin.token.new");
    let (text, hash) = operator_token();
    write_private(&waiting, format!("{text}\n").as_bytes())?;
    let made = store
        .for_operators()
        .create_admin_token(&itself("AdminToken"), admin_of(hash), replace)
        .await;
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            // Nobody misses a token that never worked.
            let _ = std::fs::remove_file(&waiting);
            return Err(error).context(
                "no token was made; is this the data folder and the database of the server?",
            );
        }
    };
    std::fs::rename(&waiting, &path)
        .and_then(|()| File::open(folder)?.sync_all())
        .with_context(|| {
            format!(
                "the token works and is in {}; move it yourself",
                waiting.display()
            )
        })?;
    Ok(AdminTokenFile { made, path })
}

/// The caller of what the server does by itself.
fn itself(method: &'static str) -> Caller {
    Caller {
        name: "kernex-server".into(),
        scope: Scope::Everything,
        request: None,
        method,
        origin: Origin::default(),
    }
}

fn admin_of(hash: Digest) -> NewOperatorToken {
    NewOperatorToken {
        name: "admin".into(),
        role: Role::Admin,
        hash,
        ttl: ADMIN_TTL,
    }
}

/// Tells the log and the service manager that the server is up. The first start also prints what to
/// type next.
#[expect(
    clippy::print_stdout,
    reason = "what an operator copies is data, not a log line"
)]
pub(crate) fn announce(config: &Config, foundation: &Foundation, address: std::net::SocketAddr) {
    tracing::info!(%address, tls = foundation.identity.is_some(), cluster = %foundation.cluster, "listening");
    if config.announce {
        service::ready(&format!("listening on {address}"));
    }
    if !(config.announce && foundation.first) {
        return;
    }
    let names = config.network.names();
    let host = names.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let data = std::fs::canonicalize(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let (port, data) = (address.port(), data.display());
    match &foundation.identity {
        Some(identity) => {
            println!("CA pin (SHA-256): {}", identity.ca_pin());
            println!(
                "Next: kernexctl context add local --server https://{host}:{port} --ca {data}/ca.pem --token-file {data}/admin.token"
            );
        }
        None => println!(
            "Next: kernexctl context add local --server http://{host}:{port} --token-file {data}/admin.token"
        ),
    }
}
