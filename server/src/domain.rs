//! The rules, free of wire, database and clock: what an attempt may become, when a deployment is
//! finished, which devices a selector means, whether a returning journal is a copy.
//!
//! Everything here takes `now` and facts and returns what to do, so that tables and properties can
//! test it.

pub mod attempt;
pub mod configuration;
pub mod device;
pub mod halt;
pub mod mistake;
pub mod penalty;
pub mod rollback;
pub mod rollout;
pub mod schedule;
pub mod selector;

/// Declares an enum that has a name in the database and a variant in the contract.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident <=> $wire:ty { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in the database, in events and in logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value behind a name.
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

        impl From<$name> for $wire {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant),+ }
            }
        }

        impl $name {
            /// The value on the wire, unless it is unspecified.
            #[must_use]
            pub fn from_wire(wire: $wire) -> Option<Self> {
                match wire {
                    $(<$wire>::$variant => Some(Self::$variant),)+
                    <$wire>::Unspecified => None,
                }
            }
        }
    };
}
pub(crate) use named_enum;
