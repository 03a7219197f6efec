//! A set of byte ranges that stays small: what was written and must yet be told to others.

use std::collections::BTreeMap;
use std::ops::Range;

/// More are not kept apart. Telling of one costs a system call, and whoever writes so much that is scattered
/// loses little when what lies between is forgotten with it.
const MOST: usize = 1024;

/// Ranges that neither overlap nor touch. It may come to hold more than was put in, never less.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Ends by start.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // From the right end on leftwards, for as long as they meet it.
        while let Some((&left, &right)) = self.ends.range(..=end).next_back()
            && right >= start
        {
            self.ends.remove(&left);
            start = start.min(left);
            end = end.max(right);
        }
        self.ends.insert(start, end);
        if self.ends.len() > MOST
            && let (Some((&first, _)), Some((_, &last))) =
                (self.ends.first_key_value(), self.ends.last_key_value())
        {
            self.ends = BTreeMap::from([(first, last)]);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ends.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_nothing_else(
            inserted in prop::collection::vec((0_u64..60, 0_u64..12), 0..20),
        ) {
            let mut ranges = Ranges::default();
            let mut model = [false; 80];
            for (start, len) in inserted {
                ranges.insert(start..start + len);
                (start..start + len).for_each(|at| model[usize::try_from(at).unwrap()] = true);
            }
            let mut found = [false; 80];
            let mut last_end = None;
            for range in ranges.iter() {
                prop_assert!(range.start < range.end);
                prop_assert!(last_end.is_none_or(|end| end < range.start), "they touch");
                last_end = Some(range.end);
                range.for_each(|at| found[usize::try_from(at).unwrap()] = true);
            }
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn too_many_become_one_that_holds_them_all() {
        let mut ranges = Ranges::default();
        for n in 0..1024 {
            ranges.insert(n * 10..n * 10 + 1);
        }
        assert_eq!(ranges.iter().count(), 1024);
        ranges.insert(20_000..20_001);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), vec![0..20_001]);
    }
}
