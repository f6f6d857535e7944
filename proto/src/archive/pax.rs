//! The records of pax headers: which of them are let through.

/// Longest global header that is read, in bytes.
pub(super) const MAX_GLOBAL_BYTES: u64 = 64 * 1024;

/// `git archive` writes one of these with a comment. Anything that would change the entries to come
/// is refused, because readers disagree on what it means.
pub(super) fn check_global(mut body: &[u8]) -> Result<(), &'static str> {
    while !body.is_empty() {
        let (key, rest) = record(body).ok_or("is a malformed global header")?;
        match key {
            b"comment" | b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" => {
                body = rest;
            }
            _ => return Err("is a global header that changes the entries after it"),
        }
    }
    Ok(())
}

/// Sparse files hide their size in records of their own.
pub(super) fn is_sparse(key: &[u8]) -> bool {
    key.starts_with(b"GNU.sparse.")
}

/// Splits `LENGTH KEY=VALUE\n` off: the key, and what follows the record.
fn record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = body.iter().position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(body.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = body.split_at_checked(len)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    Some((pair.get(..equals)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn comments_pass_and_paths_do_not() {
        assert_eq!(check_global(b"16 comment=abcd\n"), Ok(()));
        assert_eq!(check_global(b""), Ok(()));
        assert!(check_global(b"16 comment=abcd\n12 path=abc\n").is_err());
        assert!(check_global(b"99 comment=abcd\n").is_err());
        assert!(check_global(b"0 comment=abcd\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(prop_oneof![Just(b' '), Just(b'='), b'0'..=b'9', any::<u8>()], 0..60)) {
            let _ = check_global(&body);
        }
    }
}
