//! What is to happen to one message on its way.

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent to the server.
    Up,
    /// From the server to the agent.
    Down,
}

/// What happens to the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// The connection ends before it.
    CutBefore,
    /// The connection ends so many bytes after its beginning, or as far as they came in one piece.
    CutInside(usize),
    /// One bit so many bytes after its beginning is turned over, as far as they came in one piece.
    Flip(usize, u8),
}

/// A deed, and how many messages pass before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Which way it looks.
    pub way: Way,
    /// Messages that pass.
    pub passes: usize,
    /// What happens to the one after them.
    pub deed: Deed,
}

/// What is left to do with a piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sprung {
    /// Nothing happened, or only garbling.
    Passes,
    /// Only so many bytes go through, and then the connection ends.
    Ends(usize),
}

/// Looks at a piece in which messages begin at `begins`. The trap is gone once it has sprung.
pub(super) fn look(
    slot: &mut Option<Trap>,
    way: Way,
    begins: &[usize],
    bytes: &mut [u8],
) -> Sprung {
    let Some(trap) = slot.as_mut().filter(|trap| trap.way == way) else {
        return Sprung::Passes;
    };
    let Some(&begin) = begins.get(trap.passes) else {
        trap.passes -= begins.len();
        return Sprung::Passes;
    };
    let deed = trap.deed;
    *slot = None;
    let last = bytes.len() - 1;
    match deed {
        Deed::CutBefore => Sprung::Ends(begin),
        Deed::CutInside(offset) => Sprung::Ends((begin + offset).min(last)),
        Deed::Flip(offset, bit) => {
            bytes[(begin + offset).min(last)] ^= 1 << (bit % 8);
            Sprung::Passes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_springs_at_its_message_and_only_once() {
        let trap = |deed| Trap {
            way: Way::Down,
            passes: 3,
            deed,
        };
        let table = [
            (Deed::CutBefore, Sprung::Ends(4), [0; 8]),
            (Deed::CutInside(2), Sprung::Ends(6), [0; 8]),
            (Deed::CutInside(99), Sprung::Ends(7), [0; 8]),
            (Deed::Flip(1, 3), Sprung::Passes, [0, 0, 0, 0, 0, 8, 0, 0]),
            (Deed::Flip(99, 8), Sprung::Passes, [0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        for (deed, expected, garbled) in table {
            let (mut slot, mut bytes) = (Some(trap(deed)), [0; 8]);
            assert_eq!(
                look(&mut slot, Way::Up, &[0, 2, 4, 5], &mut bytes),
                Sprung::Passes
            );
            assert_eq!(
                look(&mut slot, Way::Down, &[0, 2], &mut bytes),
                Sprung::Passes
            );
            assert_eq!(bytes, [0; 8]);
            assert_eq!(look(&mut slot, Way::Down, &[1, 4], &mut bytes), expected);
            assert_eq!((bytes, slot), (garbled, None));
        }
    }
}
