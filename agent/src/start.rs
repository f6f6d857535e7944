//! What an agent needs before anything else: its identity, its key and its journal. It waits for
//! errors that may go away by themselves (network, server, disk).

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use kernex_proto::connect::DialError;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    channel::ConnectError,
    config::{Config, state_dir_flag},
    disk::Fault,
    enrollment,
    identity::{self, DeviceKey, Identity, IdentityError},
    journal::{Journal, JournalError},
    removal::Remover,
    servers::Servers,
    session::Sessions,
    settings::Settings,
    shared::Shared,
};

/// Identity, key and a journal that can be written; `None` when `shutdown` came first.
pub(crate) async fn start(
    config: &Config,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<(Identity, DeviceKey, Journal)>> {
    let known = retry_until_shutdown(
        config,
        shutdown,
        "cannot read who this device is",
        || async { Ok(Identity::load(&config.state_dir)?) },
    );
    let identity = match (known.await?, &config.token) {
        (None, _) => return Ok(None),
        (Some(Some(identity)), _) => identity,
        (Some(None), None) => anyhow::bail!(
            "this device is not enrolled; run `kernex-agent enroll --server URL --token-file FILE{}` first (a token comes \
             from `kernexctl enrollment create`)",
            state_dir_flag(&config.state_dir)
        ),
        (Some(None), Some(token)) => {
            config.servers.first().context(enrollment::NO_SERVER)?;
            let enrol = || crate::enroll(config, token);
            match retry_until_shutdown(config, shutdown, "cannot enrol", enrol).await? {
                Some(identity) => identity,
                None => return Ok(None),
            }
        }
    };
    let load = || enrollment::load_key(config);
    let Some(key) =
        retry_until_shutdown(config, shutdown, "cannot read the device key", load).await?
    else {
        return Ok(None);
    };
    let open = || {
        let open = || open_journal(&config.state_dir);
        retry_until_shutdown(config, shutdown, "cannot open the journal", open)
    };
    let Some(mut journal) = open().await? else {
        return Ok(None);
    };
    while let Some(fault) = journal.call(|journal| Ok(journal.fault())).await? {
        // A full disk has the reserve left: enough to end in the journal what was cut off.
        if fault == Fault::NoSpace
            && journal
                .call(|journal| journal.confirm_epoch(0))
                .await
                .is_ok()
        {
            break;
        }
        let settings = Settings::new(config);
        let mut sessions = Sessions {
            servers: Servers::new(config, &identity),
            config: config.clone(),
            identity: identity.clone(),
            key: key.clone(),
            journal,
            shared: Arc::new(Shared::new(
                &identity.name,
                settings,
                Remover::new(&config.state_dir),
            )),
        };
        if !sessions.run_until_disk_works(shutdown).await {
            return Ok(None);
        }
        // Opened again as at any start: checked, and set aside when it is damaged.
        drop(sessions);
        match open().await? {
            Some(opened) => journal = opened,
            None => return Ok(None),
        }
    }
    Ok(Some((identity, key, journal)))
}

/// Fails where an operator has to mend who this device is, so that a service manager shows it as it
/// shows a setting that is wrong. What may heal by itself is left to [`start`], which waits.
pub(crate) fn refuse_final(state_dir: &Path) -> anyhow::Result<()> {
    match identity::check(state_dir) {
        Err(error) if is_final_identity(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tries until it works, with the waits of a session that does not open. Errors that trying again
/// cannot help are returned.
async fn retry_until_shutdown<T, F>(
    config: &Config,
    shutdown: &CancellationToken,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<Option<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut backoff = Backoff::new(config.max_reconnect_wait);
    loop {
        let Some(tried) = shutdown.run_until_cancelled(attempt()).await else {
            return Ok(None);
        };
        let error = match tried {
            Ok(value) => return Ok(Some(value)),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => error,
        };
        let wait = backoff.next(std::time::Duration::ZERO, None, rand::random());
        let error = format!("{error:#}");
        tracing::error!(error, wait_ms = wait.as_millis(), "{what}; trying again");
        let waited = shutdown.run_until_cancelled(tokio::time::sleep(wait));
        if waited.await.is_none() {
            return Ok(None);
        }
    }
}

/// Whether an operator has to change something: the network, the server and the disk may recover by
/// themselves.
fn is_final(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<ConnectError>() {
        return matches!(
            error,
            ConnectError::Address(_)
                | ConnectError::Mismatch(_)
                | ConnectError::Dial(_, DialError::Plaintext(_))
        );
    }
    if let Some(error) = error.downcast_ref::<IdentityError>() {
        return is_final_identity(error);
    }
    if let Some(error) = error.downcast_ref::<JournalError>() {
        return error.fault().is_none();
    }
    false
}

fn is_final_identity(error: &IdentityError) -> bool {
    !matches!(error, IdentityError::Io(_, error) if Fault::of(error).is_some())
}

async fn open_journal(state_dir: &Path) -> anyhow::Result<Journal> {
    let path = state_dir.join("journal.redb");
    let opened = tokio::task::spawn_blocking(move || Journal::open(&path)).await?;
    let (journal, aside) = opened.context("cannot open the journal")?;
    if let Some(aside) = aside {
        tracing::error!(
            path = %aside.display(),
            "THE JOURNAL WAS DAMAGED and set aside; attempts the server still waits for will end as journal_lost"
        );
    }
    Ok(journal)
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    #[test]
    fn only_what_nobody_can_wait_for_is_final() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let errno = |errno: rustix::io::Errno| io::Error::from(errno);
        let waits: [anyhow::Error; 4] = [
            JournalError::Io(errno(rustix::io::Errno::ROFS)).into(),
            IdentityError::Io("/s".into(), errno(rustix::io::Errno::IO)).into(),
            ConnectError::Timeout("x".into()).into(),
            anyhow::anyhow!("the server refused the token"),
        ];
        for error in waits {
            assert!(!is_final(&error.context("trying")), "it may heal");
        }
        let gone = IdentityError::KeyGone {
            path: "/s/device.key".into(),
            name: "edge-1".to_owned(),
        };
        let finals: [anyhow::Error; 5] = [
            gone.into(),
            JournalError::InUse("/s".into()).into(),
            IdentityError::Io("/s".into(), denied()).into(),
            IdentityError::BadKey("/s".into()).into(),
            ConnectError::Mismatch("x").into(),
        ];
        for error in finals {
            assert!(is_final(&error.context("trying")), "it cannot heal");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_until_it_works_or_the_agent_stops() {
        let config = Config::new("/s");
        let shutdown = CancellationToken::new();
        let mut failures = 20;
        let done = retry_until_shutdown(&config, &shutdown, "cannot", || {
            failures -= 1;
            let is_early = failures > 0;
            async move {
                anyhow::ensure!(!is_early, "not yet");
                Ok(7)
            }
        });
        assert_eq!(done.await.unwrap(), Some(7));
        let stop = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            shutdown.cancel();
        };
        let never = retry_until_shutdown(&config, &shutdown, "cannot", || async {
            Err::<(), _>(anyhow::anyhow!("never"))
        });
        let (done, ()) = tokio::join!(never, stop);
        assert_eq!(done.unwrap(), None);
    }
}
