//! Between the contract and the rules: what a word or a value of `kernex.v1` means in
//! [`crate::domain`], and the way back.
//!
//! What comes in is read with `TryFrom`, because a word may be unspecified or too new. What goes
//! out is made with `From`. The files hold these conversions and nothing else, so there is nothing
//! to import. Requests of operators, and the rows that answer them, are converted in `api/wire/`,
//! which stands above the store.
//! written in `api/wire/`, one floor of the house above the store.

mod attempt;
mod configuration;
mod device;
mod rollout;

/// The word was left out, or agents may not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is unspecified")]
pub struct Unspecified;

/// Pairs the words of an enum of the rules with those of the contract. A word that only one of them
/// has does not compile. After `and` come words that only the contract has, each with the word that
/// it is a part of.
macro_rules! same_words {
    ($word:ty, $wire:ty: $($variant:ident),+ $(,)? $(and $($part:ident of $whole:ident),+)?) => {
        impl From<$word> for $wire {
            fn from(word: $word) -> Self {
                match word {
                    $(<$word>::$variant => Self::$variant),+
                }
            }
        }

        impl TryFrom<$wire> for $word {
            type Error = $crate::wire::Unspecified;

            fn try_from(wire: $wire) -> Result<Self, Self::Error> {
                match wire {
                    $(<$wire>::$variant => Ok(Self::$variant),)+
                    $($(<$wire>::$part => Ok(Self::$whole),)+)?
                    <$wire>::Unspecified => Err($crate::wire::Unspecified),
                }
            }
        }
    };
}
pub(crate) use same_words;
