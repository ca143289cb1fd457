//! Asks the processor for memory that will be read soon.
//!
//! A walk over a large repo reads blocks all over its arena; each would be waited for by itself. So what a node leads to is
//! asked for as soon as the node is read, and comes while the walk is busy.

/// How much of a slice is asked for, in bytes; most records are shorter.
const AHEAD: usize = 512;

/// A line of memory.
const LINE: usize = 64;

/// Asks for the beginning of a slice.
#[inline]
pub fn prefetch<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in (0..size_of_val(slice).min(AHEAD)).step_by(LINE) {
            // SAFETY: a hint about an address inside of the slice; it reads nothing into the program and cannot fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().cast::<i8>().add(line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, AHEAD, LINE);
}
