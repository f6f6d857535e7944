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

/// Writes "512 B", "1.50 MiB": for people; programs get the number.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(unit) = (count.max(1).ilog2() / 10).checked_sub(1) else {
        return format!("{count} B");
    };
    // Two digits of an amount below 1024 are exact enough in a float.
    let amount = count as f64 / (1_u64 << (10 * (unit + 1))) as f64;
    format!("{amount:.2} {}", UNITS[unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_572_864, "1.50 MiB"),
            (22_008_250, "20.99 MiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

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
