//! What is held, under way and waiting: everything that changes in one step.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Key;
use super::flight::{Flight, Job, Landing, Stage};
use super::held::Held;
use super::origin::Origin;
use super::queue::{Priority, Queue};
use crate::block::{Block, BlockIndex};

/// What a search found.
pub(super) enum Found {
    Block(Block),
    Flight {
        landing: Landing,
        /// Whether it was begun less urgently than it is asked for now.
        less_urgent: bool,
    },
}

pub(super) struct State {
    pub(super) held: Held,
    /// Fetches under way at one time.
    most: usize,
    flights: HashMap<Key, Flight>,
    /// Empty as long as fewer than `most` are under way.
    queue: Queue<Job>,
    pub(super) sources: u32,
}

impl State {
    pub(super) fn new(capacity: usize, most: usize) -> Self {
        Self {
            held: Held::new(capacity),
            most,
            flights: HashMap::new(),
            queue: Queue::default(),
            sources: 0,
        }
    }

    /// The block, or the fetch that brings it. If there was none, there is now; the caller spawns it if it is to begin.
    pub(super) fn find(
        &mut self,
        origin: &Arc<Origin>,
        index: BlockIndex,
        priority: Priority,
    ) -> (Found, Option<(Priority, Job)>) {
        let key = (origin.number, index);
        let held = match priority {
            Priority::Demand => self.held.get(&key),
            Priority::Ahead | Priority::Background => self.held.peek(&key),
        };
        if let Some(block) = held {
            return (Found::Block(block), None);
        }
        if let Some(flight) = self.flights.get_mut(&key) {
            let less_urgent = match flight.stage {
                Stage::Waiting(place) => {
                    flight.stage = Stage::Waiting(self.queue.promote(place, priority));
                    false
                }
                Stage::UnderWay(begun) => begun > priority,
            };
            let before = flight.wanted;
            flight.wanted = before.min(priority);
            match (before, flight.wanted) {
                (Priority::Ahead, Priority::Demand) => {
                    self.held.cease_ahead();
                    if let Stage::UnderWay(Priority::Ahead) = flight.stage {
                        origin.stats.read_ahead_used.add(1);
                    }
                }
                (Priority::Background, Priority::Ahead) => self.held.expect_ahead(),
                _ => {}
            }
            let found = Found::Flight {
                landing: flight.landing.clone(),
                less_urgent,
            };
            return (found, None);
        }
        let (landing, begun) = self.add(origin, index, priority);
        let found = Found::Flight {
            landing,
            less_urgent: false,
        };
        (found, begun)
    }

    /// Whether a block that is to be read ahead is neither here nor on its way, and has room.
    pub(super) fn lacks(&mut self, origin: &Origin, index: BlockIndex) -> bool {
        let key = (origin.number, index);
        let missing = !self.held.contains(&key) && !self.flights.contains_key(&key);
        missing && self.held.make_room_ahead(origin.number)
    }

    /// A new fetch; it is to begin if it is returned, and waits otherwise.
    pub(super) fn add(
        &mut self,
        origin: &Arc<Origin>,
        index: BlockIndex,
        priority: Priority,
    ) -> (Landing, Option<(Priority, Job)>) {
        let (land, landing) = watch::channel(None);
        let job = Job {
            origin: Arc::clone(origin),
            index,
            land,
        };
        if priority == Priority::Ahead {
            self.held.expect_ahead();
        }
        let flight = |stage| Flight {
            landing: landing.clone(),
            stage,
            wanted: priority,
        };
        if self.held.fetches() < self.most {
            let flight = flight(Stage::UnderWay(priority));
            self.flights.insert(job.key(), flight);
            self.begin(priority, &job);
            return (landing, Some((priority, job)));
        }
        let key = job.key();
        let place = self.queue.push(priority, job);
        self.flights.insert(key, flight(Stage::Waiting(place)));
        (landing, None)
    }

    fn begin(&mut self, priority: Priority, job: &Job) {
        self.held.begin();
        if priority == Priority::Ahead {
            job.origin.stats.read_ahead.add(1);
        }
        if let Some(flight) = self.flights.get_mut(&job.key()) {
            flight.stage = Stage::UnderWay(priority);
        }
    }

    /// A fetch has ended; the next to begin in its place.
    pub(super) fn landed(&mut self, job: &Job, block: Option<&Block>) -> Option<(Priority, Job)> {
        self.end(job, block);
        let (priority, next) = self.queue.pop()?;
        self.begin(priority, &next);
        Some((priority, next))
    }

    /// A fetch is not made any more: the runtime ends, so those that wait will not be, either.
    pub(super) fn abandon(&mut self, job: &Job) -> Vec<Job> {
        self.end(job, None);
        let waiting = std::iter::from_fn(|| self.queue.pop()).map(|(_, job)| job);
        let waiting: Vec<_> = waiting.collect();
        for job in &waiting {
            self.remove(job.key());
        }
        waiting
    }

    /// Nobody will ask for a block that was read ahead, or is to be; what was not begun is dropped.
    pub(super) fn give_up(&mut self, origin: &Origin, index: BlockIndex) -> Option<Job> {
        let key = (origin.number, index);
        self.held.give_up(&key);
        let flight = self.flights.get_mut(&key)?;
        if flight.wanted != Priority::Ahead {
            return None;
        }
        if let Stage::Waiting(place) = flight.stage
            // The list's own landing is one; more are those of people in no hurry.
            && self.queue.peek(place).is_some_and(|job| job.land.receiver_count() == 1)
        {
            self.remove(key);
            return self.queue.remove(place);
        }
        flight.wanted = Priority::Background;
        self.held.cease_ahead();
        None
    }

    fn end(&mut self, job: &Job, block: Option<&Block>) {
        let key = job.key();
        self.held.end();
        let wanted = self.flights.remove(&key).map(|flight| flight.wanted);
        if wanted == Some(Priority::Ahead) {
            self.held.cease_ahead();
        }
        match (block.cloned(), wanted) {
            (None, _) => {}
            (Some(block), Some(Priority::Ahead)) => {
                self.held.insert_unread(key, block, Arc::clone(&job.origin));
            }
            (Some(block), Some(Priority::Background)) => {
                self.held.insert(key, block);
                self.held.demote(&key);
            }
            (Some(block), Some(Priority::Demand) | None) => self.held.insert(key, block),
        }
    }

    /// Takes a fetch that waits, or did, off the list.
    fn remove(&mut self, key: Key) {
        let flight = self.flights.remove(&key);
        if flight.is_some_and(|flight| flight.wanted == Priority::Ahead) {
            self.held.cease_ahead();
        }
    }
}
