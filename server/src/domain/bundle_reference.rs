//! How people name a bundle: by its name, by name and version, or by its digest.

/// Digits of a digest that are enough to name a bundle. Tables show as many.
pub const SHORT_DIGEST: usize = 12;

const WHOLE_DIGEST: usize = 64;

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleReference {
    /// All versions of a name. The name may look like the beginning of a digest.
    Name(String),
    /// Name and version.
    Version(String, String),
    /// A digest, or the beginning of one.
    Digest(String),
}

impl BundleReference {
    /// What a text names. Any text names something.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some((name, version)) = text.split_once(':') {
            return Self::Version(name.to_owned(), version.to_owned());
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if (SHORT_DIGEST..=WHOLE_DIGEST).contains(&text.len()) && text.bytes().all(hex) {
            return Self::Digest(text.to_owned());
        }
        Self::Name(text.to_owned())
    }

    /// Whether it is only the beginning of a digest.
    #[must_use]
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Digest(digits) if digits.len() < WHOLE_DIGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_versions_and_digests_are_told_apart() {
        let name = |text: &str| BundleReference::Name(text.to_owned());
        assert_eq!(BundleReference::parse("tool"), name("tool"));
        assert_eq!(BundleReference::parse("decade"), name("decade"));
        assert_eq!(
            BundleReference::parse("tool:2.0"),
            BundleReference::Version("tool".into(), "2.0".into())
        );
        let whole = "ab".repeat(32);
        let whole = BundleReference::parse(&whole);
        assert!(matches!(whole, BundleReference::Digest(_)) && !whole.is_short());
        let short = BundleReference::parse("b59ef6c193ab");
        assert!(matches!(short, BundleReference::Digest(_)) && short.is_short());
        assert_eq!(BundleReference::parse("B59EF6C193AB"), name("B59EF6C193AB"));
    }
}
