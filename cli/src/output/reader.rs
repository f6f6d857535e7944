//! Whether anybody still reads what is printed.
//!
//! A watch may print nothing for hours. Without a look of its own it would notice only at the next
//! line that its reader is gone.

use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until nobody can read the standard output any more: the other end of a pipe or socket is
/// closed. Files and terminals have no such end.
pub(crate) async fn gone() {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        if is_gone() {
            return;
        }
    }
}

#[cfg(unix)]
fn is_gone() -> bool {
    is_closed(&std::io::stdout())
}

/// Cannot be seen here; writing the next line fails.
#[cfg(not(unix))]
fn is_gone() -> bool {
    false
}

/// Whether nobody can read what is written there. An error of the check does not say so.
#[cfg(unix)]
fn is_closed(output: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut watched = [PollFd::new(output, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let looked = poll(&mut watched, Some(&at_once));
    looked.is_ok_and(|found| {
        found > 0
            && watched[0]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_without_a_reader_is_closed() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_closed(&writer));
        drop(reader);
        assert!(is_closed(&writer));
        let file = tempfile::tempfile().unwrap();
        assert!(!is_closed(&file), "a file has no reader");
    }
}
