//! What waits for its turn, by urgency and then by age.

use std::collections::BTreeMap;

/// How urgent a fetch is: each overtakes those below it, and a fetch that waits is promoted by who asks for it more urgently.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    /// Somebody waits for it.
    Demand,
    /// Somebody will probably want it next.
    Ahead,
    /// It is wanted some time.
    Background,
}

/// Where something stands in a queue: by priority, then by number of arrival.
pub(super) type Place = (Priority, u64);

/// Items that wait.
pub(super) struct Queue<T> {
    waiting: BTreeMap<Place, T>,
    arrivals: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            arrivals: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Adds `item` behind those of its priority.
    pub(super) fn push(&mut self, priority: Priority, item: T) -> Place {
        self.arrivals += 1;
        let place = (priority, self.arrivals);
        self.waiting.insert(place, item);
        place
    }

    /// Takes the most urgent item, and of those the one that came first.
    pub(super) fn pop(&mut self) -> Option<(Priority, T)> {
        let ((priority, _), item) = self.waiting.pop_first()?;
        Some((priority, item))
    }

    /// The item at `place`.
    pub(super) fn peek(&self, place: Place) -> Option<&T> {
        self.waiting.get(&place)
    }

    /// Takes the item at `place`.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.waiting.remove(&place)
    }

    /// The place of the item at `place` once it is at least as urgent as `priority`; its age counts there, too.
    pub(super) fn promote(&mut self, place: Place, priority: Priority) -> Place {
        let better = place.min((priority, place.1));
        if let Some(item) = self.waiting.remove(&place) {
            self.waiting.insert(better, item);
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::Priority::{Ahead, Background, Demand};
    use super::*;

    fn drained(queue: &mut Queue<char>) -> String {
        std::iter::from_fn(|| queue.pop())
            .map(|(_, item)| item)
            .collect()
    }

    #[test]
    fn the_most_urgent_goes_first_and_the_oldest_of_those() {
        let mut queue = Queue::default();
        for (item, priority) in [
            ('a', Background),
            ('b', Ahead),
            ('c', Demand),
            ('d', Ahead),
            ('e', Demand),
        ] {
            queue.push(priority, item);
        }
        assert_eq!(drained(&mut queue), "cebda");
    }

    #[test]
    fn a_promotion_keeps_the_age_and_never_makes_anything_less_urgent() {
        let mut queue = Queue::default();
        let background = queue.push(Background, 'a');
        let ahead = queue.push(Ahead, 'b');
        let demand = queue.push(Demand, 'c');
        queue.push(Demand, 'd');
        assert_eq!(queue.promote(demand, Background), demand);
        assert_eq!(queue.promote(ahead, Demand), (Demand, ahead.1));
        let promoted = queue.promote(background, Ahead);
        assert_eq!(queue.remove(promoted), Some('a'));
        assert_eq!(drained(&mut queue), "bcd");
    }
}
