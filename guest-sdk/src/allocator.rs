//! The plugin's heap: first a static arena, then the growing linear memory.
//!
//! Each attempt runs in a fresh instance, and `memory.grow` makes fresh instances slow. It takes a
//! lock of the process's address space, so two threads that start instances wait for each other. A
//! small step that stays in the arena never grows.
//!
//! The allocator is Talc. It is maintained, its code is small, it reuses freed memory, and its
//! source of memory can be replaced. A bump allocator would run out of memory in a long loop.

#![expect(
    unsafe_code,
    reason = "handing memory to the allocator; plugins without the `arena` feature have none of it"
)]

use core::alloc::Layout;
use core::arch::wasm32::memory_grow;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

/// The arena has room for inputs and outputs of some tens of KiB with their decoded forms.
/// Untouched pages cost the host nothing.
const ARENA_BYTES: usize = 256 * 1024;
const PAGE_BYTES: usize = 64 * 1024;
/// Each growth has a price, so the heap grows by at least 256 KiB.
const GROWTH_PAGES_MIN: usize = 4;
/// More than the allocator's own records for a heap with one chunk.
const OVERHEAD_BYTES: usize = 1024;

#[global_allocator]
static HEAP: TalcSyncCell<ArenaThenGrow, WasmBinning> = TalcSyncCell::new_wasm(ArenaThenGrow {
    is_arena_claimed: false,
    end: None,
});

static mut ARENA: [MaybeUninit<u8>; ARENA_BYTES] = [MaybeUninit::uninit(); ARENA_BYTES];

#[derive(Debug)]
struct ArenaThenGrow {
    is_arena_claimed: bool,
    /// The end of the grown heap. The next growth extends the heap, unless other code grew the
    /// memory in between.
    end: Option<NonNull<u8>>,
}

// SAFETY: `acquire` allocates nothing, and returns `Ok` only after it made more memory available.
unsafe impl Source for ArenaThenGrow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.is_arena_claimed {
            talc.source.is_arena_claimed = true;
            // SAFETY: no other code names ARENA, and the flag lets this happen once.
            return unsafe { talc.claim((&raw mut ARENA).cast(), ARENA_BYTES) }
                .map(|_| ())
                .ok_or(());
        }
        let bytes = layout
            .size()
            .saturating_add(layout.align())
            .saturating_add(OVERHEAD_BYTES);
        let pages = bytes.div_ceil(PAGE_BYTES);
        let (start_page, pages) = grow(pages.max(GROWTH_PAGES_MIN))
            .or_else(|| grow(pages))
            .ok_or(())?;
        // Fails only for the last page of 4 GiB, whose end is not a valid address.
        let end = (start_page + pages).checked_mul(PAGE_BYTES).ok_or(())? as *mut u8;
        let base = (start_page * PAGE_BYTES) as *mut u8;
        talc.source.end = match talc.source.end.take() {
            // SAFETY: the grown memory is fresh, and follows the heap that ends where it begins.
            Some(heap_end) if heap_end.as_ptr() == base => {
                Some(unsafe { talc.extend(heap_end, end) })
            }
            // SAFETY: the grown memory is fresh.
            _ => Some(unsafe { talc.claim(base, pages * PAGE_BYTES) }.ok_or(())?),
        };
        Ok(())
    }
}

fn grow(pages: usize) -> Option<(usize, usize)> {
    match memory_grow::<0>(pages) {
        usize::MAX => None,
        start_page => Some((start_page, pages)),
    }
}
