//! Named crash points: places where a program dies as if by SIGKILL when a test asks for it.
//!
//! A program lists its guarded acts (a journal write, a rename, a commit, an ack, a push) in one
//! enum made by [`crash_points!`](crate::crash_points); each act has a point before it and one
//! after it. `KERNEX_CRASH_AT=journal.accept.after` arms one of them, `journal.accept.after#3` its
//! third pass. Nothing is flushed, no destructor runs, no other thread goes on.
//!
//! Without the feature `crash-points`, and in every build without debug assertions whatever its
//! features, all of this is empty: a release build has no crash points and reads no such variable.

/// The variable that arms one point.
pub const VARIABLE: &str = "KERNEX_CRASH_AT";

/// On which side of an act a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It is about to happen.
    Before,
    /// It has happened.
    After,
}

/// Passes a point. Dies if this pass of this point is armed.
#[cfg(all(feature = "crash-points", debug_assertions))]
pub fn pass(act: &str, side: Side) {
    armed::pass(act, side);
}

/// Does nothing: this build has no crash points.
#[cfg(not(all(feature = "crash-points", debug_assertions)))]
#[inline]
pub const fn pass(_: &str, _: Side) {}

/// Makes the enum of a program's guarded acts, each with the name that tests and
/// `docs/crash-points.md` use.
///
/// An act that nothing passes is a variant that is never constructed, so the compiler keeps the
/// list true.
#[macro_export]
macro_rules! crash_points {
    ($(#[$about:meta])* $vis:vis enum $list:ident { $($(#[$of:meta])* $act:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $list { $($(#[$of])* $act,)+ }

        impl $list {
            /// Every act.
            #[cfg(test)]
            $vis const ALL: &'static [Self] = &[$(Self::$act),+];

            /// Its name in tests and in `docs/crash-points.md`.
            $vis const fn name(self) -> &'static str {
                match self { $(Self::$act => $name,)+ }
            }

            /// It is about to happen.
            #[inline]
            $vis fn before(self) {
                $crate::crash::pass(self.name(), $crate::crash::Side::Before);
            }

            /// It has happened.
            #[inline]
            $vis fn after(self) {
                $crate::crash::pass(self.name(), $crate::crash::Side::After);
            }
        }
    };
}

#[cfg(feature = "crash-points")]
#[cfg_attr(
    not(debug_assertions),
    expect(dead_code, reason = "release builds have no crash points")
)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::{Side, VARIABLE};

    /// One point, and which pass of it.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Armed {
        act: String,
        side: Side,
        nth: u64,
    }

    impl Armed {
        /// `act.before`, `act.after`, either with `#n`; nothing else is a point.
        pub(super) fn parse(text: &str) -> Option<Self> {
            let (point, nth) = match text.split_once('#') {
                Some((point, nth)) => (point, nth.parse().ok().filter(|nth| *nth > 0)?),
                None => (text, 1),
            };
            let (act, side) = point.rsplit_once('.')?;
            let side = match side {
                "before" => Side::Before,
                "after" => Side::After,
                _ => return None,
            };
            Some(Self {
                act: act.to_owned(),
                side,
                nth,
            })
        }
    }

    pub(super) fn pass(act: &str, side: Side) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        static PASSES: AtomicU64 = AtomicU64::new(0);
        let armed = ARMED.get_or_init(|| Armed::parse(&std::env::var(VARIABLE).ok()?));
        let Some(armed) = armed else { return };
        if armed.act != act || armed.side != side {
            return;
        }
        if PASSES.fetch_add(1, Ordering::SeqCst) + 1 == armed.nth {
            die();
        }
    }

    fn die() -> ! {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way; do nothing until it arrives.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(all(test, feature = "crash-points"))]
mod tests {
    #[test]
    fn a_point_is_an_act_a_side_and_a_pass() {
        use super::armed::Armed;
        assert_ne!(Armed::parse("a.b.before"), Armed::parse("a.b.after"));
        assert_eq!(Armed::parse("a.b.after"), Armed::parse("a.b.after#1"));
        assert_ne!(Armed::parse("a.b.after"), Armed::parse("a.b.after#2"));
        for bad in ["", "a.b", "after", "a.after#0", "a.after#x"] {
            assert_eq!(Armed::parse(bad), None, "{bad}");
        }
    }
}
