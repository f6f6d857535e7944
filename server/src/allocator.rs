//! The program's allocator: jemalloc, which gives back what a storm of reconnections or a large upload needed. Why, and what
//! else was tried: `docs/decisions/0017-the-server-allocates-with-jemalloc.md`.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Pages that are free for a second go back to the system, swept by a thread of jemalloc's own, and large buffers begin with a
/// page, of which a quiet connection touches the first alone. Read before `main`;
/// `_RJEM_MALLOC_CONF` in the environment overrides it.
#[expect(
    unsafe_code,
    reason = "jemalloc looks for its settings under this name; nothing else has it"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 82] =
    b"dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true,cache_oblivious:false\0";
