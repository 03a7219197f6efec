//! A set of block indexes, kept as sorted runs: a dense disk of any size takes one, a sparse one a few.

use std::ops::Range;

use super::BlockIndex;

/// Sorted, disjoint, non-adjacent runs of block indexes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BlockSet {
    runs: Vec<Range<u32>>,
}

impl BlockSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `index`, which lies after all that were added before.
    ///
    /// # Panics
    /// In debug builds, if it does not.
    pub fn push(&mut self, index: BlockIndex) {
        let index = index.get();
        match self.runs.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            last => {
                debug_assert!(
                    last.is_none_or(|last| last.end < index),
                    "indexes are added in ascending order"
                );
                self.runs.push(index..index + 1);
            }
        }
    }

    /// Adds the indexes of `run`, which is not empty and lies after all that were added before, and not beside them.
    ///
    /// # Panics
    /// In debug builds, if it does not.
    pub fn push_run(&mut self, run: Range<u32>) {
        let after = self.runs.last().is_none_or(|last| last.end < run.start);
        debug_assert!(!run.is_empty() && after, "runs are added in order");
        self.runs.push(run);
    }

    /// How many indexes it holds.
    pub fn len(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| u64::from(run.end - run.start))
            .sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether it holds `index`.
    pub fn contains(&self, index: BlockIndex) -> bool {
        self.run_from(index)
            .is_some_and(|run| run.start <= index.get())
    }

    /// The first run of indexes that is not wholly below `index`; it may begin below it.
    pub fn run_from(&self, index: BlockIndex) -> Option<Range<u32>> {
        let at = self.runs.partition_point(|run| run.end <= index.get());
        self.runs.get(at).cloned()
    }

    /// The last run of indexes that is not wholly above `index`; it may end above it.
    pub fn run_to(&self, index: BlockIndex) -> Option<Range<u32>> {
        let after = self.runs.partition_point(|run| run.start <= index.get());
        self.runs.get(after.checked_sub(1)?).cloned()
    }

    /// The runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.runs.iter().cloned()
    }

    /// The indexes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        self.runs().flatten().map(BlockIndex::new)
    }

    /// Gives memory back that it does not need: a set that is full grows no more.
    pub fn shrink(&mut self) {
        self.runs.shrink_to_fit();
    }

    /// Bytes of memory it takes, nearly.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.runs.capacity() * size_of::<Range<u32>>()
    }
}

impl FromIterator<BlockIndex> for BlockSet {
    /// From ascending indexes.
    fn from_iter<I: IntoIterator<Item = BlockIndex>>(indexes: I) -> Self {
        let mut set = Self::new();
        indexes.into_iter().for_each(|index| set.push(index));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_run_and_searches_find_its_edges() {
        let set: BlockSet = [2, 3, 4, 9].map(BlockIndex::new).into_iter().collect();
        assert_eq!(set.runs().collect::<Vec<_>>(), [2..5, 9..10]);
        assert_eq!(set.len(), 4);
        let held: Vec<_> = (0..12)
            .filter(|i| set.contains(BlockIndex::new(*i)))
            .collect();
        assert_eq!(held, [2, 3, 4, 9]);
        assert_eq!(set.run_from(BlockIndex::new(3)), Some(2..5));
        assert_eq!(set.run_from(BlockIndex::new(5)), Some(9..10));
        assert_eq!(set.run_from(BlockIndex::new(10)), None);
        let below = |index| set.run_to(BlockIndex::new(index));
        assert_eq!([below(1), below(2)], [None, Some(2..5)]);
        assert_eq!([below(8), below(9)], [Some(2..5), Some(9..10)]);
        assert_eq!(set.iter().map(BlockIndex::get).collect::<Vec<_>>(), held);
    }
}
