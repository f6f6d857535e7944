//! How many streams, uploads and plans a caller may have at a time. A slot is taken before the call
//! is handled, and is free again after the last byte of its answer. So a peer that does not read
//! only uses up its own slots.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use kernex_proto::ids::{Digest, TokenId};
use parking_lot::Mutex;
use tonic::Status;

use crate::error::token_limit;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SlotOwner {
    /// An operator token.
    Token(TokenId),
    /// A device, by the hash of its session token.
    Session(Digest),
    /// A connection on which nothing has authenticated.
    Connection(usize),
}

impl fmt::Display for SlotOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "token {id}"),
            Self::Session(_) => f.write_str("session"),
            Self::Connection(_) => f.write_str("connection"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SlotKind {
    Stream,
    Halt,
    Upload,
    Plan,
}

impl SlotKind {
    /// The name of the slot in messages, and the setting of the server that says how many there
    /// are.
    pub(super) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Stream => ("streams", "--max-streams-per-token"),
            Self::Halt => ("halts", "--max-streams-per-token"),
            Self::Upload => ("uploads", "--max-uploads-per-token"),
            Self::Plan => ("plans", "--max-plans-per-token"),
        }
    }
}

/// How many of each kind a caller may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// Watches and downloads.
    pub streams: u32,
    pub uploads: u32,
    /// Plans that devices are being asked about.
    pub plans: u32,
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self {
            streams: 16,
            uploads: 4,
            plans: 2,
        }
    }
}

impl SlotLimits {
    const fn of_kind(self, kind: SlotKind) -> u32 {
        match kind {
            SlotKind::Stream | SlotKind::Halt => self.streams,
            SlotKind::Upload => self.uploads,
            SlotKind::Plan => self.plans,
        }
    }
}

/// The slots that each caller has taken.
#[derive(Debug, Clone)]
pub(super) struct StreamSlots {
    most: SlotLimits,
    taken: Arc<Mutex<HashMap<(SlotOwner, SlotKind), u32>>>,
}

/// A slot that is taken. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct StreamSlot {
    caller: SlotOwner,
    kind: SlotKind,
    taken: Arc<Mutex<HashMap<(SlotOwner, SlotKind), u32>>>,
}

impl StreamSlots {
    pub(super) fn new(most: SlotLimits) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// Takes a slot. An error when the caller has as many as it may.
    pub(super) fn take(&self, caller: SlotOwner, kind: SlotKind) -> Result<StreamSlot, Status> {
        let most = self.most.of_kind(kind);
        {
            let mut taken = self.taken.lock();
            let count = taken.entry((caller, kind)).or_insert(0);
            if *count >= most {
                return Err(full(caller, kind, most));
            }
            *count += 1;
        }
        Ok(StreamSlot {
            caller,
            kind,
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Entry::Occupied(mut count) = taken.entry((self.caller, self.kind)) {
            if *count.get() <= 1 {
                count.remove();
            } else {
                *count.get_mut() -= 1;
            }
        }
    }
}

fn full(caller: SlotOwner, kind: SlotKind, most: u32) -> Status {
    let (what, setting) = kind.words();
    let (whose, instead) = match caller {
        SlotOwner::Token(_) => ("token", ", or use another token"),
        SlotOwner::Session(_) => ("session", ""),
        SlotOwner::Connection(_) => ("connection", ""),
    };
    token_limit(format!(
        "this {whose} has {most} {what} under way, which is as many as it may; end one{instead}, or have {setting} of the server raised"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: SlotLimits = SlotLimits {
        streams: 2,
        uploads: 1,
        plans: 1,
    };

    #[test]
    fn a_token_has_sixteen_streams_four_uploads_and_two_plans() {
        let most = SlotLimits::default();
        assert_eq!((most.streams, most.uploads, most.plans), (16, 4, 2));
        for (kind, count) in [
            (SlotKind::Stream, 16),
            (SlotKind::Halt, 16),
            (SlotKind::Upload, 4),
            (SlotKind::Plan, 2),
        ] {
            let (places, ada) = (StreamSlots::new(most), SlotOwner::Connection(1));
            let taken: Vec<_> = (0..=count).map(|_| places.take(ada, kind)).collect();
            let refused = taken.iter().position(Result::is_err);
            assert_eq!(refused, Some(count), "{kind:?}");
        }
    }

    #[test]
    fn each_caller_has_its_own_places_of_each_kind_and_gets_them_back() {
        let places = StreamSlots::new(FEW);
        let (ada, bob) = (SlotOwner::Connection(1), SlotOwner::Connection(2));
        let first = places.take(ada, SlotKind::Stream).expect("a place");
        let _second = places.take(ada, SlotKind::Stream).expect("a place");
        let _upload = places.take(ada, SlotKind::Upload).expect("of another kind");
        let _other = places
            .take(bob, SlotKind::Stream)
            .expect("of another caller");
        places
            .take(ada, SlotKind::Stream)
            .expect_err("there are two");
        drop(first);
        let again = places.take(ada, SlotKind::Stream).expect("it came back");
        drop((again, _second, _upload, _other));
        assert!(places.taken.lock().is_empty());
    }

    #[test]
    fn a_refusal_says_the_limit_and_what_to_do() {
        let places = StreamSlots::new(FEW);
        let token = SlotOwner::Token(TokenId::generate());
        let _place = places.take(token, SlotKind::Upload).expect("a place");
        let refused = places
            .take(token, SlotKind::Upload)
            .expect_err("there is one");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            refused.message(),
            "this token has 1 uploads under way, which is as many as it may; end one, or use another token, or have --max-uploads-per-token of the server raised"
        );
    }
}
