//! Keeps answers below the size that clients accept.

use prost::Message;
use tonic::Status;

use crate::store::{Page, Paged, StoreError};

/// Most bytes of a message with many items. Clients refuse more than 4 MiB unless told otherwise,
/// and one item can have a manifest of 1 MiB in it.
const MESSAGE_BUDGET: usize = 2 * 1024 * 1024;

/// A page as messages. One that does not fit into an answer is shortened, and its token goes on
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
fn fitting<M: Message>(items: &[M]) -> usize {
    let mut bytes = 0;
    let over = items.iter().position(|item| {
        bytes += item.encoded_len();
        bytes > MESSAGE_BUDGET
    });
    over.map_or(items.len(), |index| index.max(1))
}

/// Items in parts that each fit into one message; one empty part when there are none.
pub(in crate::api) fn parts<M: Message>(mut items: Vec<M>) -> Vec<Vec<M>> {
    let mut parts = Vec::new();
    loop {
        let rest = items.split_off(fitting(&items));
        parts.push(items);
        if rest.is_empty() {
            return parts;
        }
        items = rest;
    }
}

/// How many items a whole list has, where the caller asked for that.
pub(in crate::api) async fn total(
    wanted: bool,
    count: impl Future<Output = Result<u64, StoreError>>,
) -> Result<Option<u64>, Status> {
    match wanted {
        true => Ok(Some(count.await?)),
        false => Ok(None),
    }
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

    #[test]
    fn parts_hold_every_item_once_and_in_order() {
        let item = |bytes: usize| v1::Target {
            output_tail: "x".repeat(bytes),
            ..Default::default()
        };
        let lengths = |items: Vec<v1::Target>| -> Vec<Vec<usize>> {
            let parts = parts(items).into_iter();
            parts
                .map(|part| part.iter().map(|item| item.output_tail.len()).collect())
                .collect()
        };
        let half = MESSAGE_BUDGET / 2;
        assert_eq!(lengths(Vec::new()), [Vec::<usize>::new()]);
        assert_eq!(lengths(vec![item(1), item(2)]), [vec![1, 2]]);
        assert_eq!(
            lengths(vec![item(1), item(half), item(half), item(2)]),
            [vec![1, half], vec![half, 2]]
        );
    }
}
