//! The rules, free of wire, database and clock: what an attempt may become, when a deployment is
//! finished, which devices a selector means, whether a returning journal is a copy.
//!
//! All functions take `now` and facts, and return what to do, so that tables and properties can
//! test them. Of the contract's crate only the ids and the digest are used. What a message of the
//! contract means here is in [`crate::wire`].

pub mod attempt;
pub mod bundle_reference;
pub mod configuration;
pub mod device;
pub mod halt;
pub mod parse_error;
pub mod pattern;
pub mod penalty;
pub mod rollback;
pub mod rollout;
pub mod schedule;
pub mod selector;
pub mod waiting;

/// Declares an enum whose values have names in the database, in events and in logs.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All values in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in the database, in events and in logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use named_enum;
