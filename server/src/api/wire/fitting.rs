//! Keeps answers below the size that clients accept.

use prost::Message;
use tonic::Status;

use crate::store::{Page, Paged, StoreError};

/// Most bytes of a message with many items. Clients refuse more than 4 MiB unless told otherwise,
/// and one item can have a manifest of 1 MiB in it.
const MESSAGE_BUDGET: usize = 2 * 1024 * 1024;

/// A page as messages. A page that does not fit into one answer is shortened, and its token goes on
/// from there.
pub(in crate::api) async fn fitting_page<T, M, F, A>(
    page: Page,
    list: F,
) -> Result<(Vec<M>, String), Status>
where
    M: Message + From<T>,
    F: Fn(Page) -> A,
    A: Future<Output = Result<Paged<T>, StoreError>>,
{
    let size = page.size;
    let token = page.token.clone();
    let paged = list(page).await?;
    let (items, next) = messages(paged);
    let fit = fitting(&items);
    if fit == items.len() {
        return Ok((items, next));
    }
    let size = size.min(u32::try_from(fit).unwrap_or(size));
    Ok(messages(list(Page { size, token }).await?))
}

fn messages<T, M: From<T>>(paged: Paged<T>) -> (Vec<M>, String) {
    let items = paged.items.into_iter().map(M::from).collect();
    (items, paged.next.unwrap_or_default())
}

/// How many of `items` fit into one message; at least one, unless there is none.
pub(in crate::api) fn fitting<M: Message>(items: &[M]) -> usize {
    let mut bytes = 0;
    let over = items.iter().position(|item| {
        bytes += item.encoded_len();
        bytes > MESSAGE_BUDGET
    });
    over.map_or(items.len(), |index| index.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernex_proto::v1;

    #[test]
    fn a_message_holds_what_fits_and_at_least_one_item() {
        let item = |bytes: usize| v1::Target {
            output_tail: "x".repeat(bytes),
            ..Default::default()
        };
        assert_eq!(fitting::<v1::Target>(&[]), 0);
        assert_eq!(fitting(&[item(10), item(10)]), 2);
        assert_eq!(fitting(&[item(MESSAGE_BUDGET), item(10)]), 1);
        assert_eq!(fitting(&[item(10), item(MESSAGE_BUDGET)]), 1);
    }
}
