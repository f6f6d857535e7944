//! `bundle delete`

use std::time::Duration;

use jiff::Timestamp;
use kernex_proto::{error::Reason, v1};
use tonic::Status;

use super::list::list;
use crate::{
    args::Consent,
    client::{Client, request_id},
    commands::{Session, confirm},
    error::{Failure, reason},
    output::{bytes, counted, emit, print_note, seconds},
};

pub(crate) async fn run(session: &Session, bundle: &str, consent: Consent) -> Result<(), Failure> {
    confirm(
        consent,
        &format!("Delete the bundle {bundle} from the server?"),
    )
    .await?;
    delete(&session.connect().await?, bundle).await?;
    print_note(&format!("The bundle {bundle} is deleted."));
    Ok(())
}

/// With `--gc`: tries to delete every bundle; the server refuses those that are needed. Prints the
/// deleted ones, one a line.
pub(super) async fn collect(
    session: &Session,
    older_than: Duration,
    consent: Consent,
) -> Result<(), Failure> {
    confirm(
        consent,
        "Delete every bundle that no device and no deployment needs?",
    )
    .await?;
    let client = session.connect().await?;
    // A time in the future counts as new.
    let age = |bundle: &v1::Bundle| {
        let created = bundle.created_at.unwrap_or_default().seconds;
        let seconds = Timestamp::now().as_second().saturating_sub(created);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    };
    let (mut deleted, mut freed, mut needed, mut young) = (0, 0, 0, 0);
    for bundle in list(&client, "").await? {
        if age(&bundle) < older_than {
            young += 1;
            continue;
        }
        let reference = format!("{}:{}", bundle.name, bundle.version);
        match delete(&client, &reference).await {
            Ok(()) => {
                emit(&format!("{reference}\n"))?;
                deleted += 1;
                freed += bundle.size_bytes;
            }
            Err(status) => match reason(&status) {
                Some(Reason::InUse) => needed += 1,
                // Somebody else has deleted it meanwhile.
                Some(Reason::NotFound) => {}
                _ => return Err(status.into()),
            },
        }
    }
    print_note(&format!(
        "Deleted: {} with {}. Still needed: {}.{}",
        counted(deleted, "bundle"),
        bytes(freed),
        counted(needed, "bundle"),
        kept_as_young(young, older_than)
    ));
    Ok(())
}

/// Of those that are too young nobody knows whether they are needed.
fn kept_as_young(young: u64, older_than: Duration) -> String {
    match young {
        0 => String::new(),
        young => format!(
            " Left alone, as pushed less than {} ago: {}.",
            seconds(older_than.as_secs()),
            counted(young, "bundle")
        ),
    }
}

async fn delete(client: &Client, bundle: &str) -> Result<(), Status> {
    let request = v1::DeleteBundleRequest {
        bundle: bundle.to_owned(),
        request_id: request_id(),
    };
    client.bundles().delete_bundle(request).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_that_are_left_alone_are_not_said_to_be_needed() {
        let day = Duration::from_secs(86_400);
        assert_eq!(kept_as_young(0, day), "");
        assert_eq!(
            kept_as_young(30, day),
            " Left alone, as pushed less than 1d ago: 30 bundles."
        );
    }
}
