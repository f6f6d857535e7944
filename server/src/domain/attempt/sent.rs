//! In which session an attempt was pushed last, as one number in its row.

/// Number of the newest session that a deploy was pushed in; 0 for none. `-n` is below zero: pushes
/// before session `n` do not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent(pub i64);

impl Sent {
    /// It arrived, in a session that was not noted.
    pub const SOMETIME: Self = Self(1);

    /// It has to be pushed again, in this session or a later one. Earlier pushes do not count any
    /// more.
    #[must_use]
    pub const fn again_from(epoch: i64) -> Self {
        Self(-epoch)
    }

    /// Whether it was pushed, but the push does not count any more.
    #[must_use]
    pub const fn is_taken_back(self) -> bool {
        self.0 < 0
    }

    /// Whether it was pushed, and the push counts.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 > 0
    }

    /// Whether it has not been pushed in this session.
    #[must_use]
    pub const fn is_new_to(self, epoch: i64) -> bool {
        self.0 < epoch
    }

    /// After a push in this session is noted. The note may come late, from a session that does not
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
