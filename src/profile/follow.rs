//! What to fetch next by a profile: a pure policy, which fetches nothing itself.
//!
//! The follower stands in the profile where its reader was last, and wants the blocks that come after. How many is a
//! matter of trust: it begins small, every block that is read and was in the profile earns more than it costs, and every
//! one that was not takes some away. So a reader who does what another did before is soon as far ahead as it is worth,
//! and one who does something else pays for a few blocks that he does not need: never for more than [`FIRST`], and twice
//! as many as he read by the profile.

use std::collections::HashMap;

use crate::block::BlockIndex;

/// Blocks wanted on the first evidence: a small fetch at one time, and enough to double from.
pub(super) const FIRST: usize = 32;

/// What a block earns that was in the profile. With two the number of blocks under way doubles with every round trip.
const EARNED: usize = 2;

/// How far ahead of its reader it goes at most: 128 MiB, which is 80 ms of what one machine can fetch and hash.
pub(super) const WINDOW: usize = 256;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Nothing is known of it.
    Open,
    /// It was wanted.
    Wanted,
    /// It was touched, or is at hand.
    Done,
}

/// What a touch came to.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Step {
    /// Whether the block had been wanted.
    pub(super) used: bool,
    /// What is wanted now, in order.
    pub(super) wanted: Vec<BlockIndex>,
}

/// One reader's way through a profile.
pub(super) struct Follower {
    order: Vec<BlockIndex>,
    places: HashMap<BlockIndex, usize>,
    states: Vec<State>,
    window: usize,
    trust: usize,
}

impl Follower {
    /// Through `order`, and at most `window` blocks ahead, which is [`WINDOW`] or less.
    pub(super) fn new(order: &[BlockIndex], window: usize) -> Self {
        Self {
            order: order.to_vec(),
            places: order.iter().copied().zip(0..).collect(),
            states: vec![State::Open; order.len()],
            window,
            trust: FIRST.min(window),
        }
    }

    /// A reader touched a block for the first time.
    pub(super) fn touched(&mut self, index: BlockIndex) -> Step {
        let Some(&place) = self.places.get(&index) else {
            self.trust = self.trust.saturating_sub(1);
            return Step::default();
        };
        let used = self.states[place] == State::Wanted;
        self.states[place] = State::Done;
        self.trust = (self.trust + EARNED).min(self.window);
        let wanted = self.next(place + 1);
        Step { used, wanted }
    }

    /// As many as are trusted, of the window that begins at `from`.
    fn next(&mut self, from: usize) -> Vec<BlockIndex> {
        let end = (from + self.window).min(self.order.len());
        let mut wanted = Vec::new();
        for place in from..end {
            if self.trust == 0 {
                break;
            }
            if self.states[place] == State::Open {
                self.states[place] = State::Wanted;
                self.trust -= 1;
                wanted.push(self.order[place]);
            }
        }
        wanted
    }

    /// A block that was wanted is not fetched: because it is at hand, or because there is no room yet.
    pub(super) fn refused(&mut self, index: BlockIndex, at_hand: bool) {
        let Some(&place) = self.places.get(&index) else {
            return;
        };
        // It may have been touched meanwhile.
        if self.states[place] == State::Wanted {
            self.states[place] = if at_hand { State::Done } else { State::Open };
            self.trust = (self.trust + 1).min(self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u32) -> BlockIndex {
        BlockIndex::new(index)
    }

    fn all(range: std::ops::Range<u32>) -> Vec<BlockIndex> {
        range.map(at).collect()
    }

    #[test]
    fn who_does_the_same_again_gets_every_block_once_in_order_and_ever_further_ahead() {
        let order: Vec<_> = (0..2000).map(|i| at(i * 7919 % 2003)).collect();
        let mut follower = Follower::new(&order, WINDOW);
        let (mut wanted, mut furthest) = (vec![order[0]], 0);
        for (place, index) in order.iter().enumerate() {
            let step = follower.touched(*index);
            assert_eq!(step.used, place > 0, "at {place}");
            wanted.extend(step.wanted);
            furthest = furthest.max(wanted.len() - place - 1);
        }
        assert_eq!(wanted, order);
        assert_eq!(furthest, WINDOW);
    }

    #[test]
    fn the_first_touch_is_worth_a_few_blocks_only() {
        let step = Follower::new(&all(0..1000), WINDOW).touched(at(0));
        assert_eq!(step.wanted, all(1..1 + 34));
    }

    #[test]
    fn a_small_window_is_kept_to() {
        let mut follower = Follower::new(&all(0..100), 3);
        assert_eq!(follower.touched(at(0)).wanted, all(1..4));
        assert_eq!(follower.touched(at(1)).wanted, all(4..5));
        assert_eq!(follower.touched(at(4)).wanted, all(5..8));
    }

    #[test]
    fn who_does_something_else_fetches_little_and_then_nothing() {
        let mut follower = Follower::new(&all(0..1000), WINDOW);
        assert_eq!(follower.touched(at(5000)), Step::default());
        let mut wanted = follower.touched(at(0)).wanted.len();
        // The first superblock may be the same; what comes after is not.
        for index in 2000..2100 {
            wanted += follower.touched(at(index)).wanted.len();
        }
        assert!(wanted <= FIRST + EARNED, "{wanted}");
        assert_eq!(follower.touched(at(500)).wanted.len(), EARNED);
    }

    #[test]
    fn waste_is_bounded_whatever_is_touched() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..50 {
            let share = random.u32(1..20);
            let mut follower = Follower::new(&all(0..4000), WINDOW);
            let mut touches: Vec<u32> = (0..4000 * share / 10).collect();
            random.shuffle(&mut touches);
            let (mut wanted, mut known) = (0, 0);
            for index in touches.into_iter().take(2000) {
                known += usize::from(index < 4000);
                wanted += follower.touched(at(index)).wanted.len();
                assert!(wanted <= FIRST + EARNED * known, "{wanted} by {known}");
            }
        }
    }

    #[test]
    fn it_goes_where_the_reader_is() {
        let mut follower = Follower::new(&all(0..1000), WINDOW);
        follower.touched(at(0));
        let mut wanted = Vec::new();
        for index in 600..640 {
            wanted.extend(follower.touched(at(index)).wanted);
        }
        assert!(wanted.len() > 60 && wanted.iter().all(|index| index.get() > 600));
    }

    #[test]
    fn what_found_no_room_is_wanted_again_and_what_is_at_hand_is_not() {
        let mut follower = Follower::new(&all(0..100), WINDOW);
        let first = follower.touched(at(0)).wanted;
        for index in &first {
            follower.refused(*index, index.get() == 1);
        }
        assert!(!follower.touched(at(50)).used);
        let again = follower.touched(at(2));
        assert!(!again.used, "it was not fetched");
        assert_eq!(again.wanted[..2], [at(3), at(4)]);
    }
}
