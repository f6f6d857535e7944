//! gzip on all processors. The bytes are cut into blocks of one size. Each block is compressed
//! alone and ends at a byte boundary, so the blocks in a row are one stream with one member, which
//! any reader understands. The result does not depend on the number of threads.

use std::{
    collections::VecDeque,
    io::{self, Write},
    num::NonZeroUsize,
    sync::{Mutex, mpsc},
    thread,
};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::unwritten;
use crate::error::Failure;

/// Bytes of a block. At this size, starting a new one costs nothing measurable.
const BLOCK: usize = 1024 * 1024;

/// Fixed: another level would give other bytes.
const LEVEL: u32 = 6;

/// Most threads. More gain nothing: the disk is slower.
const MOST_THREADS: usize = 8;

/// A header without time, file name or system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

struct Job {
    block: Vec<u8>,
    is_last: bool,
    done: mpsc::Sender<io::Result<Vec<u8>>>,
}

/// Compresses what `fill` writes into `out`. Blocks its thread.
pub(super) fn compress<W: Write + Send>(
    out: W,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Failure>,
) -> Result<W, Failure> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.min(MOST_THREADS);
    let (jobs, waiting) = mpsc::sync_channel(threads);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&waiting));
        }
        // The threads end when it is dropped with its end of the channel.
        let mut gzip = Gzip {
            out,
            jobs,
            most_ahead: 2 * threads,
            ahead: VecDeque::new(),
            block: Vec::with_capacity(BLOCK),
            check: Crc::new(),
        };
        gzip.out.write_all(&HEADER).map_err(unwritten)?;
        fill(&mut gzip)?;
        gzip.finish().map_err(unwritten)
    })
}

fn work(waiting: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = match waiting.lock() {
            Ok(waiting) => waiting.recv(),
            Err(_) => return,
        };
        let Ok(job) = job else {
            return;
        };
        // Nobody waits any more when writing has failed.
        let _ = job.done.send(deflate(&job.block, job.is_last));
    }
}

/// One block, as a part of a stream that ends at a byte.
fn deflate(block: &[u8], is_last: bool) -> io::Result<Vec<u8>> {
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    let flush = if is_last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
        let rest = block.get(taken..).unwrap_or_default();
        let status = deflate.compress_vec(rest, &mut out, flush)?;
        let is_taken = deflate.total_in() == block.len() as u64;
        let is_flushed = is_taken && out.len() < out.capacity();
        if status == Status::StreamEnd || !is_last && is_flushed {
            return Ok(out);
        }
        out.reserve(64 * 1024);
    }
}

struct Gzip<W> {
    out: W,
    jobs: mpsc::SyncSender<Job>,
    /// Blocks that are compressed and not written yet, at most so many.
    most_ahead: usize,
    ahead: VecDeque<mpsc::Receiver<io::Result<Vec<u8>>>>,
    block: Vec<u8>,
    check: Crc,
}

impl<W: Write> Gzip<W> {
    fn hand_over(&mut self, is_last: bool) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (done, compressed) = mpsc::channel();
        let job = Job {
            block,
            is_last,
            done,
        };
        self.jobs.send(job).map_err(|_| broke_off())?;
        self.ahead.push_back(compressed);
        while self.ahead.len() > if is_last { 0 } else { self.most_ahead } {
            let Some(first) = self.ahead.pop_front() else {
                break;
            };
            let compressed = first.recv().map_err(|_| broke_off())??;
            self.out.write_all(&compressed)?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.hand_over(true)?;
        self.out.write_all(&self.check.sum().to_le_bytes())?;
        self.out.write_all(&self.check.amount().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.block.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.check.update(taken);
        self.block.extend_from_slice(taken);
        if self.block.len() == BLOCK {
            self.hand_over(false)?;
        }
        Ok(taken.len())
    }

    /// Does nothing: blocks end at fixed places only.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn broke_off() -> io::Error {
    io::Error::other("a thread that compresses broke off")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn compressed(bytes: &[u8], piece: usize) -> Vec<u8> {
        compress(Vec::new(), |out| {
            for piece in bytes.chunks(piece) {
                out.write_all(piece).unwrap();
            }
            out.flush().map_err(unwritten)
        })
        .unwrap()
    }

    /// Bytes that neither repeat nor are all the same.
    fn some(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0] & 0x3f
        });
        bytes.take(length).collect()
    }

    #[test]
    fn any_length_comes_back_and_the_bytes_depend_on_nothing_else() {
        for length in [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let bytes = some(length);
            let made = compressed(&bytes, 8192);
            assert_eq!(made, compressed(&bytes, 5 * 4096 + 1), "{length}");
            // A reader that knows of one member only.
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&made[..])
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == bytes, "{length}");
            assert!(made.len() <= length + length / 100 + 100, "{length}");
        }
    }

    #[test]
    fn an_error_of_whoever_fills_or_takes_ends_it() {
        let failing = compress(Vec::new(), |out| {
            out.write_all(&some(BLOCK)).unwrap();
            Err(unwritten(io::Error::other("no more")))
        });
        assert!(failing.unwrap_err().message.contains("no more"));

        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                match bytes.len() {
                    10 => Ok(10),
                    _ => Err(io::Error::other("full")),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let full = compress(Full, |out| {
            out.write_all(&some(40 * BLOCK)).map_err(unwritten)
        });
        assert!(full.is_err_and(|failure| failure.message.contains("full")));
    }
}
