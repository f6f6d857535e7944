//! A fault for one chosen message that passes the proxy.

/// Direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the agent to the server.
    Up,
    /// From the server to the agent.
    Down,
}

/// What happens to the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageFault {
    /// The connection ends before it.
    CutBefore,
    /// The connection ends so many bytes after its beginning, or as far as they came in one piece.
    CutInside(usize),
    /// One bit so many bytes after its beginning is turned over, as far as they came in one piece.
    Flip(usize, u8),
}

/// A fault, and how many messages pass before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Messages of this direction count.
    pub direction: Direction,
    /// Messages that pass unharmed first.
    pub passes: usize,
    /// What happens to the next one.
    pub fault: MessageFault,
}

/// How to go on after a piece of a stream was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Pass it on; bits may have been flipped in it.
    Passes,
    /// Pass on so many bytes and end the connection.
    Ends(usize),
}

/// Looks at a piece in which messages begin at `begins`. The trap is gone once it has sprung.
pub(super) fn look(
    slot: &mut Option<Trap>,
    direction: Direction,
    begins: &[usize],
    bytes: &mut [u8],
) -> Passage {
    let Some(trap) = slot.as_mut().filter(|trap| trap.direction == direction) else {
        return Passage::Passes;
    };
    let Some(&begin) = begins.get(trap.passes) else {
        trap.passes -= begins.len();
        return Passage::Passes;
    };
    let fault = trap.fault;
    *slot = None;
    let last = bytes.len() - 1;
    match fault {
        MessageFault::CutBefore => Passage::Ends(begin),
        MessageFault::CutInside(offset) => Passage::Ends((begin + offset).min(last)),
        MessageFault::Flip(offset, bit) => {
            bytes[(begin + offset).min(last)] ^= 1 << (bit % 8);
            Passage::Passes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_springs_at_its_message_and_only_once() {
        let trap = |fault| Trap {
            direction: Direction::Down,
            passes: 3,
            fault,
        };
        let table = [
            (MessageFault::CutBefore, Passage::Ends(4), [0; 8]),
            (MessageFault::CutInside(2), Passage::Ends(6), [0; 8]),
            (MessageFault::CutInside(99), Passage::Ends(7), [0; 8]),
            (
                MessageFault::Flip(1, 3),
                Passage::Passes,
                [0, 0, 0, 0, 0, 8, 0, 0],
            ),
            (
                MessageFault::Flip(99, 8),
                Passage::Passes,
                [0, 0, 0, 0, 0, 0, 0, 1],
            ),
        ];
        for (fault, expected, garbled) in table {
            let (mut slot, mut bytes) = (Some(trap(fault)), [0; 8]);
            assert_eq!(
                look(&mut slot, Direction::Up, &[0, 2, 4, 5], &mut bytes),
                Passage::Passes
            );
            assert_eq!(
                look(&mut slot, Direction::Down, &[0, 2], &mut bytes),
                Passage::Passes
            );
            assert_eq!(bytes, [0; 8]);
            assert_eq!(
                look(&mut slot, Direction::Down, &[1, 4], &mut bytes),
                expected
            );
            assert_eq!((bytes, slot), (garbled, None));
        }
    }
}
