//! Revoked keys and tokens. When the transaction of a revocation has committed, the sessions of the
//! device end, and all calls that go on in the name of the device or of the operator's token.
//!
//! A call that lasts longer than one answer takes a [`Hold`] *before* it asks the database whether
//! it may go on. So a revocation either commits before that question, which finds it, or after it,
//! and then it ends the hold.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kernex_proto::ids::{DeviceId, TokenId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::domain::named_enum;

named_enum! {
    /// Why a key was revoked.
    Cause {
        /// The device was deleted.
        Deleted = "deleted",
        /// Another key took the device over.
        Replaced = "replaced",
    }
}

/// A key or token that is not valid any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// All keys that a device had.
    Keys {
        device: DeviceId,
        /// Number of the newest session that can have been opened with one of them.
        epoch: u64,
        cause: Cause,
    },
    Token(TokenId),
}

/// In whose name a call goes on. A revocation ends all calls in that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revocable {
    Device(DeviceId),
    /// The operator token that the call came with.
    Token(TokenId),
}

impl Revocation {
    const fn subject(self) -> Revocable {
        match self {
            Self::Keys { device, .. } => Revocable::Device(device),
            Self::Token(token) => Revocable::Token(token),
        }
    }
}

type Listener = Box<dyn Fn(Revocation) + Send + Sync>;

/// Tells what was revoked. Clones share everything.
#[derive(Clone, Default)]
pub struct Revocations(Arc<Inner>);

#[derive(Default)]
struct Inner {
    holds: Mutex<HashMap<Revocable, SharedHold>>,
    /// How many holds were made so far.
    made: AtomicU64,
    /// How many tokens and devices were revoked so far.
    tokens: AtomicU64,
    devices: AtomicU64,
    /// Set before the first revocation of this process commits, and never cleared.
    ever: AtomicBool,
    listener: OnceLock<Listener>,
}

/// What the holds of one subject share.
struct SharedHold {
    ended: CancellationToken,
    /// Tells this entry from an earlier one of the same subject.
    number: u64,
    holders: usize,
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.0.holds.lock().len();
        f.debug_struct("Revocations").field("held", &held).finish()
    }
}

impl Revocations {
    /// Has `listener` called with each revocation, on the thread that committed it. It may neither
    /// wait nor take long. Only the first listener stays.
    pub fn listen(&self, listener: impl Fn(Revocation) + Send + Sync + 'static) {
        let _ = self.0.listener.set(Box::new(listener));
    }

    /// A transaction that revokes something is about to commit.
    pub(crate) fn begin(&self) {
        self.0.ever.store(true, Ordering::SeqCst);
    }

    /// Whether this process has ever tried to revoke something, or heard of a revocation.
    pub(crate) fn any(&self) -> bool {
        self.0.ever.load(Ordering::SeqCst)
    }

    /// Tells what was committed. Telling it twice does no harm.
    pub(crate) fn publish(&self, revoked: &[Revocation]) {
        if revoked.is_empty() {
            return;
        }
        self.begin();
        for &one in revoked {
            // Counted before the holds end. A hold that is taken after that is checked against the
            // database afterwards.
            let count = match one {
                Revocation::Keys { .. } => &self.0.devices,
                Revocation::Token(_) => &self.0.tokens,
            };
            count.fetch_add(1, Ordering::SeqCst);
            let ended = self.0.holds.lock().remove(&one.subject());
            if let Some(held) = ended {
                held.ended.cancel();
            }
            if let Some(listener) = self.0.listener.get() {
                listener(one);
            }
        }
    }

    /// Grows with each revoked operator token. What was read about tokens when it was smaller may
    /// be out of date.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.0.tokens.load(Ordering::SeqCst)
    }

    /// Grows with each device whose keys are revoked.
    #[must_use]
    pub fn devices(&self) -> u64 {
        self.0.devices.load(Ordering::SeqCst)
    }

    /// A hold that ends when `subject` is revoked from now on.
    #[must_use]
    pub fn hold(&self, subject: Revocable) -> Hold {
        let mut holds = self.0.holds.lock();
        let held = holds.entry(subject).or_insert_with(|| SharedHold {
            ended: CancellationToken::new(),
            number: self.0.made.fetch_add(1, Ordering::Relaxed),
            holders: 0,
        });
        held.holders += 1;
        Hold {
            ended: held.ended.clone(),
            number: held.number,
            subject,
            of: Arc::clone(&self.0),
        }
    }
}

/// Tells when its subject is revoked.
pub struct Hold {
    ended: CancellationToken,
    number: u64,
    subject: Revocable,
    of: Arc<Inner>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.subject).finish()
    }
}

impl Hold {
    /// Whether the subject was revoked since this was made.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Cancelled when the subject is revoked.
    pub(crate) fn signal(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Waits until the subject is revoked.
    pub async fn revoked(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.of.holds.lock();
        // A revocation takes the entry out. One that is there now was made later.
        if let Some(held) = holds.get_mut(&self.subject)
            && held.number == self.number
        {
            held.holders = held.holders.saturating_sub(1);
            if held.holders == 0 {
                holds.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hold_ends_with_its_own_subject_and_leaves_nothing() {
        let revocations = Revocations::default();
        let (one, two) = (TokenId::generate(), TokenId::generate());
        let first = revocations.hold(Revocable::Token(one));
        let same = revocations.hold(Revocable::Token(one));
        let other = revocations.hold(Revocable::Token(two));
        revocations.publish(&[Revocation::Token(one)]);
        first.revoked().await;
        assert!(same.is_revoked() && !other.is_revoked());
        let later = revocations.hold(Revocable::Token(one));
        assert!(!later.is_revoked(), "who comes later asks the database");
        drop((first, same));
        assert_eq!(
            revocations.0.holds.lock().len(),
            2,
            "those were taken out before"
        );
        drop((later, other));
        assert_eq!(revocations.0.holds.lock().len(), 0);
    }

    #[test]
    fn counts_grow_before_anybody_hears_of_it() {
        let revocations = Revocations::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (of, into) = (revocations.clone(), Arc::clone(&heard));
        revocations.listen(move |revoked| {
            let seen = (revoked, of.devices(), of.tokens());
            into.lock().push(seen);
        });
        assert!(!revocations.any());
        let keys = Revocation::Keys {
            device: DeviceId::generate(),
            epoch: 3,
            cause: Cause::Replaced,
        };
        let token = Revocation::Token(TokenId::generate());
        revocations.publish(&[keys, token]);
        assert!(revocations.any());
        let heard = heard.lock();
        assert_eq!(*heard, [(keys, 1, 0), (token, 1, 1)]);
    }
}
