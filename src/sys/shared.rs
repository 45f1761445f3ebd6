//! A page of numbers that this process shares with its children (mmap(2) `MAP_SHARED`): what a child writes there can be
//! read when nothing else can be learnt from it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use super::Result;
use super::error::check;

const PAGE: usize = 4096;
const SLOTS: usize = PAGE / size_of::<AtomicU16>();

type Page = [AtomicU16; SLOTS];

/// A number of the page, zero at first. There are far more than children at work at a time, so they are given out in turn.
pub fn slot() -> Option<&'static AtomicU16> {
    static MAPPED: OnceLock<Option<&'static Page>> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let page = MAPPED.get_or_init(|| page().ok()).as_ref()?;
    let slot = &page[NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS];
    slot.store(0, Ordering::Relaxed);
    Some(slot)
}

fn page() -> Result<&'static Page> {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, rights, flags, -1, 0) };
    check("mmap", at as libc::c_long)?;
    // SAFETY: a page of zeroes, aligned, never unmapped; atomics may be shared, and any bits are a number.
    Ok(unsafe { &*at.cast::<Page>() })
}
