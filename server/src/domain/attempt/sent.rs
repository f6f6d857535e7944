//! In which sessions an attempt was pushed, as the one number its row keeps.

/// Newest session a deploy was pushed in; 0 for none, and below zero for none from that session on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent(pub i64);

impl Sent {
    /// It got there, in a session nobody noted.
    pub const SOMETIME: Self = Self(1);

    /// To be asked about again, from this session on: what was pushed before does not count any
    /// more.
    #[must_use]
    pub const fn again_from(epoch: i64) -> Self {
        Self(-epoch)
    }

    /// Whether it was pushed, and what was pushed does not count any more.
    #[must_use]
    pub const fn is_taken_back(self) -> bool {
        self.0 < 0
    }

    /// Whether it was pushed at all, as far as that counts.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 > 0
    }

    /// Whether this session has not seen it yet.
    #[must_use]
    pub const fn is_new_to(self, epoch: i64) -> bool {
        self.0 < epoch
    }

    /// After a push in this session was noted, which may be late and about a session that does not
    /// count any more.
    #[must_use]
    pub const fn noted(self, epoch: i64) -> Self {
        if self.0 < epoch && -self.0 <= epoch {
            Self(epoch)
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_note_never_takes_anything_back() {
        let again = Sent::again_from(4);
        let table = [
            (Sent(0), 3, Sent(3)),
            (Sent(3), 2, Sent(3)),
            (Sent(3), 5, Sent(5)),
            (again, 3, again),
            (again, 4, Sent(4)),
            (again, 5, Sent(5)),
        ];
        for (before, epoch, after) in table {
            assert_eq!(before.noted(epoch), after, "{before:?} in {epoch}");
        }
        assert!(again.is_new_to(4) && !again.is_known());
        assert!(!Sent::again_from(4).noted(4).is_new_to(4));
    }
}
