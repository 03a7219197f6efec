//! One at a time, and many waiters served by one: what a sync of many writers needs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Lets work be done in turns. Work that is asked for while other work runs may share the next turn.
#[derive(Default)]
pub(super) struct Turns {
    /// Guards the counts; never held while work is done.
    count: Mutex<Count>,
    /// A turn has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Count {
    running: bool,
    /// Shared turns that have begun.
    begun: u64,
    /// The last shared turn that has ended.
    done: u64,
}

impl Turns {
    /// Does `work`, or waits until someone else has who began after this call. Whether that went well is for the
    /// caller to know.
    pub(super) fn share(&self, work: impl FnOnce()) {
        let mut count = self.count();
        let mine = count.begun + 1;
        while count.running {
            count = self.wait(count);
            if count.done >= mine {
                return;
            }
        }
        count.running = true;
        count.begun += 1;
        let turn = Turn {
            turns: self,
            done: count.begun,
        };
        drop(count);
        work();
        drop(turn);
    }

    /// Does `work` in a turn that nobody shares.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut count = self.count();
        while count.running {
            count = self.wait(count);
        }
        count.running = true;
        let turn = Turn {
            turns: self,
            done: count.done,
        };
        drop(count);
        let answer = work();
        drop(turn);
        answer
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, count: MutexGuard<'a, Count>) -> MutexGuard<'a, Count> {
        self.ended
            .wait(count)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with its value, also when the work panics.
struct Turn<'a> {
    turns: &'a Turns,
    /// What is then the last shared turn that has ended.
    done: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut count = self.turns.count();
        count.running = false;
        count.done = count.done.max(self.done);
        drop(count);
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_come_while_work_runs_share_the_next_turn() {
        let (turns, works) = (Arc::new(Turns::default()), Arc::new(AtomicU32::new(0)));
        let (begun, has_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        let first = {
            let turns = Arc::clone(&turns);
            thread::spawn(move || {
                turns.share(|| {
                    begun.send(()).unwrap();
                    may_end.recv().unwrap();
                });
            })
        };
        has_begun.recv().unwrap();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let (turns, works) = (Arc::clone(&turns), Arc::clone(&works));
                thread::spawn(move || {
                    turns.share(|| {
                        works.fetch_add(1, Ordering::SeqCst);
                    });
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(100));
        // Nobody is content with the turn that began before.
        assert_eq!(works.load(Ordering::SeqCst), 0);
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        end.send(()).unwrap();
        first.join().unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(works.load(Ordering::SeqCst), 1);
        turns.alone(|| ());
    }
}
