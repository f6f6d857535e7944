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
    let by_id = is_prefix(text);
    let mut filter = v1::DeploymentFilter::default();
    if by_id {
        filter.id_prefix = text.to_owned();
    } else {
        filter.name = text.to_owned();
    }
    let found = list::fetch(client, Some(2), Some(filter)).await?.items;
    let mut ids = found
        .into_iter()
        .filter(|deployment| is_meant(deployment, text, by_id))
        .map(|deployment| deployment.id);
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(id),
        (Some(one), Some(other)) => Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!("`{text}` is the beginning of several ids: {one}, {other}"),
            "Write more digits.",
        )),
        (None, _) => Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!(
                "there is no deployment {} `{text}`",
                if by_id {
                    "whose id begins with"
                } else {
                    "of the name"
                }
            ),
            "See which there are with `kernexctl deployment list`.",
        )),
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
    digits >= FEWEST && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
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
}
