//! What happened to an exported file that the others that show the same bytes have to be told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::ranges::Ranges;

/// What happened to a file.
#[derive(Default)]
pub(super) struct Notes {
    /// Whether it ever was open. Otherwise the kernel has no pages of it.
    opened: AtomicBool,
    /// Guards its fields, and the order in which what they tell is passed on.
    written: Mutex<Written>,
}

#[derive(Default)]
pub(super) struct Written {
    /// Since it was last told to the other files.
    pub(super) ranges: Ranges,
    last: Option<SystemTime>,
}

impl Notes {
    pub(super) fn opened(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    /// To be called after the write and before its answer: earlier, the range might be told to others who then
    /// read what was there before.
    pub(super) fn written(&self, offset: u64, len: u64) {
        let mut written = self.lock();
        written.ranges.insert(offset..offset.saturating_add(len));
        written.last = Some(SystemTime::now());
    }

    /// When it was last written to.
    pub(super) fn last(&self) -> Option<SystemTime> {
        self.lock().last
    }

    /// Whether the kernel may have pages of it.
    pub(super) fn was_opened(&self) -> bool {
        self.opened.load(Ordering::SeqCst)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
