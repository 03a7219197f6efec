//! A fixed number of threads for requests that wait, so that the one that reads requests never does.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The threads end when the pool is dropped and the queue is empty.
pub(super) struct Pool {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Guards push and pop. The kernel bounds its length by the requests that it has under way.
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    pub(super) fn new(threads: usize) -> Result<Self> {
        let pool = Self {
            queue: Arc::default(),
        };
        for number in 0..threads {
            let queue = Arc::clone(&pool.queue);
            thread::Builder::new()
                .name(format!("fuse-wait-{number}"))
                .spawn(move || queue.work())
                .map_err(|e| Error::from(e).context("cannot start a thread"))?;
        }
        Ok(pool)
    }

    /// Runs `job` on some thread, after those that came before it were begun.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut jobs = self
            .queue
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        jobs.waiting.push_back(Box::new(job));
        drop(jobs);
        self.queue.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn work(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                drop(jobs);
                // A request that panics is answered with EIO when its reply is dropped; the thread stays.
                drop(catch_unwind(AssertUnwindSafe(job)));
                jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            } else if jobs.closed {
                return;
            } else {
                jobs = self
                    .changed
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_panic_costs_no_thread_and_every_job_runs() {
        let pool = Pool::new(1).unwrap();
        let (tell, told) = mpsc::channel();
        pool.run(|| panic!("on purpose"));
        for i in 0..3 {
            let tell = tell.clone();
            pool.run(move || tell.send(i).unwrap());
        }
        drop((pool, tell));
        assert_eq!(told.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
