//! What an agent was to remove and could not, as printed.

use kernex_proto::v1;

/// "bundles/app/releases/1.0: a file system is mounted at `data`", then "and 3 more"
pub(super) fn sentences(leftovers: &v1::Leftovers) -> Vec<String> {
    let named = leftovers.named.iter();
    let mut sentences: Vec<String> = named
        .map(|left| format!("{}: {}", left.path, left.reason))
        .collect();
    let more = (leftovers.count as usize).saturating_sub(leftovers.named.len());
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    sentences
}
