//! The text of an operator token: a prefix and a checksum, so that scanners for secrets know one
//! when they see it, and a token that was copied in part is told from one that does not work.
//!
//! `kxo2_`, 43 letters and digits (256 random bits), and six more that are the CRC-32 of all that
//! is before them. It has no character at which a double click stops. Texts of earlier versions
//! begin with `kxo1.` and have no checksum.

/// What a text begins with.
pub const PREFIX: &str = "kxo2_";
const EARLIER: &str = "kxo1.";
const ENROLMENT: &str = "kxe1.";

const SECRET: usize = 43;
const CHECKSUM: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random bytes below this give every digit equally often; larger ones are left out.
const EVEN: u8 = 62 * 4;

/// Why a text is no operator token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    #[error("this is an enrolment token, which lets devices in; operators need one of their own")]
    Enrolment,
    /// It was mistyped, or copied in part.
    #[error("the operator token is not whole, or mistyped: its checksum does not fit")]
    NotWhole,
    #[error("this is not an operator token; one begins with `{PREFIX}`")]
    Other,
}

/// Makes a text. `fill` fills a buffer with random bytes.
pub fn generate(mut fill: impl FnMut(&mut [u8])) -> String {
    let mut text = String::with_capacity(PREFIX.len() + SECRET + CHECKSUM);
    text.push_str(PREFIX);
    let mut random = [0; 64];
    while text.len() < PREFIX.len() + SECRET {
        fill(&mut random);
        let left = PREFIX.len() + SECRET - text.len();
        let even = random.iter().filter(|byte| **byte < EVEN);
        text.extend(even.take(left).map(|byte| digit(u32::from(*byte))));
    }
    let checksum = checksum(&text);
    text.push_str(&checksum);
    text
}

/// Says whether a text can be an operator token. Only the server knows whether it is one that
/// works.
pub fn check(text: &str) -> Result<(), NotAToken> {
    if text.starts_with(ENROLMENT) {
        return Err(NotAToken::Enrolment);
    }
    if text.starts_with(EARLIER) {
        return Ok(());
    }
    if !text.starts_with(PREFIX) {
        return Err(NotAToken::Other);
    }
    let is_whole = text.is_ascii()
        && text.len() == PREFIX.len() + SECRET + CHECKSUM
        && checksum(&text[..PREFIX.len() + SECRET]) == text[PREFIX.len() + SECRET..];
    is_whole.then_some(()).ok_or(NotAToken::NotWhole)
}

fn checksum(text: &str) -> String {
    let mut left = crc32fast::hash(text.as_bytes());
    let mut digits = ['0'; CHECKSUM];
    for place in digits.iter_mut().rev() {
        *place = digit(left);
        left /= 62;
    }
    digits.iter().collect()
}

fn digit(number: u32) -> char {
    char::from(DIGITS[(number % 62) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte in turn, those that are left out as well.
    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next: u8 = 200;
        move |buffer: &mut [u8]| {
            for byte in buffer {
                *byte = next;
                next = next.wrapping_add(1);
            }
        }
    }

    #[test]
    fn a_text_is_known_by_its_beginning_and_its_checksum() {
        let text = generate(counting());
        assert_eq!(text.len(), 54, "{text}");
        let (prefix, rest) = text.split_at(5);
        assert_eq!(prefix, "kxo2_");
        assert!(rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(check(&text), Ok(()));
        for at in 5..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(check(&mistyped), Err(NotAToken::NotWhole), "{mistyped}");
            assert_eq!(check(&text[..at]), Err(NotAToken::NotWhole), "cut at {at}");
        }
        assert_eq!(check(&format!("{text}x")), Err(NotAToken::NotWhole));
        assert_eq!(
            check(&format!("kxo2_{}", "ä".repeat(24))),
            Err(NotAToken::NotWhole)
        );
    }

    #[test]
    fn a_known_checksum_stays_what_it_is() {
        // CRC-32 of "123456789" is 0xCBF43926 by its specification.
        assert_eq!(checksum("123456789"), "3jZRME");
    }

    #[test]
    fn other_texts_say_what_they_are() {
        assert_eq!(check("kxo1.anything"), Ok(()), "of an earlier version");
        assert_eq!(check("kxe1.a.b.c.d"), Err(NotAToken::Enrolment));
        for text in ["", "secret", "kxo3_0", "KXO2_0"] {
            assert_eq!(check(text), Err(NotAToken::Other), "{text}");
        }
    }
}
