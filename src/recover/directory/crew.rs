//! A few threads that write files while the tree is read.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};

/// Writing a small file is work of the kernel's, and of its locks in one directory: more threads bring nothing.
const THREADS: usize = 2;

/// Files that may wait, beside those that are being written.
const WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that do what they are given. They end with it, when all is done.
pub(super) struct Crew {
    line: Option<SyncSender<Work>>,
    threads: Vec<JoinHandle<()>>,
    pending: Arc<Pending>,
}

/// What was given and is not done.
#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    /// Told when there is nothing.
    none: Condvar,
}

impl Crew {
    pub(super) fn start() -> Result<Self> {
        let (line, given) = sync_channel(WAITING);
        let given = Arc::new(Mutex::new(given));
        let pending = Arc::<Pending>::default();
        let start = |_| {
            let (given, pending) = (Arc::clone(&given), Arc::clone(&pending));
            let work = move || work_off(&given, &pending);
            thread::Builder::new().name("recover".into()).spawn(work)
        };
        let threads: std::io::Result<Vec<_>> = (0..THREADS).map(start).collect();
        Ok(Self {
            line: Some(line),
            threads: threads.map_err(|e| Error::from(e).context("cannot start a thread"))?,
            pending,
        })
    }

    /// Has somebody do it, and waits while there is too much to be done.
    pub(super) fn give(&self, work: Work) {
        self.pending.add();
        let work = match &self.line {
            Some(line) => line.send(work).map_err(|error| error.0),
            None => Err(work),
        };
        if let Err(work) = work {
            // Nobody is there any more, which does not happen.
            work();
            self.pending.take();
        }
    }

    /// Waits until all is done.
    pub(super) fn wait(&self) {
        let count = self.pending.count.lock();
        let count = count.unwrap_or_else(PoisonError::into_inner);
        drop(self.pending.none.wait_while(count, |count| *count > 0));
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.line = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Pending {
    fn add(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add(1);
    }

    fn take(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.none.notify_all();
        }
    }
}

fn work_off(given: &Mutex<Receiver<Work>>, pending: &Pending) {
    loop {
        let next = given.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else {
            return;
        };
        work();
        pending.take();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_that_was_given_is_done_when_the_wait_is_over() {
        let done = Arc::new(AtomicUsize::new(0));
        let crew = Crew::start().unwrap();
        for round in 1..=20 {
            for _ in 0..50 {
                let done = Arc::clone(&done);
                crew.give(Box::new(move || {
                    done.fetch_add(1, Ordering::Relaxed);
                }));
            }
            crew.wait();
            assert_eq!(done.load(Ordering::Relaxed), round * 50);
        }
    }
}
