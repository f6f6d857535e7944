//! Amounts as people write them; the same on both sides.

/// Reads `1048576`, `500MiB` and `4GiB`.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let table = [
            ("7", Some(7)),
            ("7B", Some(7)),
            ("500KiB", Some(500 << 10)),
            ("3 MiB", Some(3 << 20)),
            ("4GiB", Some(4 << 30)),
            ("0", None),
            ("", None),
            ("MiB", None),
            ("1MB", None),
            ("18446744073709551615KiB", None),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
