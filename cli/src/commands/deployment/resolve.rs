//! Which deployment a text names: its id, the first digits of that, or its name.

use kernex_proto::v1;

use super::list;
use crate::{
    client::Client,
    error::{Exit, Failure},
};

/// Fewest digits of an id that name a deployment; the server takes no fewer.
const FEWEST: usize = 8;

/// The whole id of the deployment that is named.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let mut ids = Vec::new();
    if is_prefix(text) {
        ids = found(client, text, true).await?;
    }
    // A name may look like the first digits of an id.
    if ids.is_empty() {
        ids = found(client, text, false).await?;
    }
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [one, other, ..] => Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!("`{text}` is the beginning of several ids: {one}, {other}"),
            "Write more digits: ids of deployments that were made soon after one another begin alike.",
        )),
        [] => Err(unknown(text)),
    }
}

/// The ids of the first two deployments that a text names.
async fn found(client: &Client, text: &str, by_id: bool) -> Result<Vec<String>, Failure> {
    let mut filter = v1::DeploymentFilter::default();
    if by_id {
        filter.id_prefix = text.to_owned();
    } else {
        filter.name = text.to_owned();
    }
    let found = list::fetch(client, Some(2), Some(filter)).await?.items;
    let meant = found
        .into_iter()
        .filter(|deployment| is_meant(deployment, text, by_id));
    Ok(meant.map(|deployment| deployment.id).collect())
}

fn unknown(text: &str) -> Failure {
    let (way, next) = if is_prefix(text) {
        ("whose id begins with or that is called", "")
    } else if is_digits(text) {
        (
            "called",
            " The beginning of an id has at least 8 digits: 13 are shown there.",
        )
    } else {
        ("called", "")
    };
    Failure::new(
        Exit::NotFoundOrConflict,
        format!("there is no deployment {way} `{text}`"),
        format!("See which there are with `kernexctl deployment list`.{next}"),
    )
}

/// How to name a deployment in a command: by the name of the order if it has one.
pub(crate) fn called(deployment: &v1::Deployment) -> &str {
    let name = deployment.name.as_str();
    if name.is_empty() || is_prefix(name) || uuid::Uuid::try_parse(name).is_ok() {
        &deployment.id
    } else {
        name
    }
}

/// Whether an answer is what was asked for: an older server knows no such filter, and an order must
/// not reach another deployment.
fn is_meant(deployment: &v1::Deployment, text: &str, by_id: bool) -> bool {
    let digits = |text: &str| text.replace('-', "").to_ascii_lowercase();
    if by_id {
        digits(&deployment.id).starts_with(&digits(text))
    } else {
        deployment.name == text
    }
}

fn is_prefix(text: &str) -> bool {
    let digits = text.bytes().filter(|b| *b != b'-').count();
    digits >= FEWEST && is_digits(text)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_of_an_id_are_told_from_other_texts() {
        for prefix in ["01a22470", "01A22470-1f3c", "01a224701f3c7abc"] {
            assert!(is_prefix(prefix), "{prefix}");
        }
        for other in ["01a2247", "nonsense", "01a22470x", ""] {
            assert!(!is_prefix(other), "{other}");
        }
    }

    #[test]
    fn a_deployment_is_called_by_its_name_unless_that_looks_like_an_id() {
        let deployment = |name: &str| v1::Deployment {
            id: "01a22470-1f3c-7abc-8def-000000000001".into(),
            name: name.into(),
            ..Default::default()
        };
        assert_eq!(called(&deployment("nightly.7")), "nightly.7");
        let unnamed = deployment("");
        assert_eq!(called(&unnamed), unnamed.id);
        let misleading = deployment("deadbeef");
        assert_eq!(called(&misleading), misleading.id);
        assert!(unknown("01a2247").next.contains("at least 8 digits"));
        assert!(!unknown("nightly").next.contains("digits"));
    }
}
