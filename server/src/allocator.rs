//! The program's allocator: jemalloc. It gives back what a storm of reconnections or a large upload
//! needed. Why, and what else was tried:
//! `docs/decisions/0017-the-server-allocates-with-jemalloc.md`.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Full runs of pages become huge pages. A thread of jemalloc's own gives back what has been free
/// for ten seconds. A large buffer begins with a page of its own, so that a quiet connection
/// touches only its first page. Read before `main`; `_RJEM_MALLOC_CONF` in the environment
/// overrides it.
#[expect(
    unsafe_code,
    reason = "jemalloc looks for its settings under this name; nothing else has it"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 54] = b"background_thread:true,hpa:true,cache_oblivious:false\0";
