//! A set of offsets, as ranges: what is finished in a partition.

use std::collections::BTreeMap;

/// Offsets from `from` up to and without `to`; ranges neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds all offsets from `from` up to and without `to`.
    pub(crate) fn add(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        if let Some((&before, &end)) = self.0.range(..from).next_back()
            && end >= from
        {
            from = before;
            to = to.max(end);
        }
        while let Some((&next, &end)) = self.0.range(from..).next().filter(|(next, _)| **next <= to) {
            self.0.remove(&next);
            to = to.max(end);
        }
        self.0.insert(from, to);
    }

    /// The end of the range that `offset` is in; `offset` if it is in none.
    pub(crate) fn end_from(&self, offset: u64) -> u64 {
        self.0.range(..=offset).next_back().map_or(offset, |(_, end)| offset.max(*end))
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.end_from(offset) > offset
    }

    /// Forgets all below `offset`.
    pub(crate) fn forget_below(&mut self, offset: u64) {
        let end = self.end_from(offset);
        while let Some(first) = self.0.first_entry().filter(|first| *first.key() < offset) {
            first.remove();
        }
        if end > offset {
            self.0.insert(offset, end);
        }
    }

    /// Forgets all from `offset` on.
    pub(crate) fn forget_from(&mut self, offset: u64) {
        self.0.split_off(&offset);
        if let Some((_, end)) = self.0.iter_mut().next_back() {
            *end = (*end).min(offset);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(from, to)| (*from, *to))
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(from, to)| set.add(from, to));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64, u64),
        Below(u64),
        From(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..64_u64, 0..9_u64).prop_map(|(from, len)| Step::Add(from, from + len)),
            1 => (0..70_u64).prop_map(Step::Below),
            1 => (0..70_u64).prop_map(Step::From),
        ]
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in proptest::collection::vec(step(), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Add(from, to) => {
                        ranges.add(from, to);
                        set.extend(from..to);
                    }
                    Step::Below(offset) => {
                        ranges.forget_below(offset);
                        set.retain(|there| *there >= offset);
                    }
                    Step::From(offset) => {
                        ranges.forget_from(offset);
                        set.retain(|there| *there < offset);
                    }
                }
                let there: Vec<u64> = ranges.iter().flat_map(|(from, to)| from..to).collect();
                prop_assert_eq!(there, set.iter().copied().collect::<Vec<_>>());
                let list: Vec<_> = ranges.iter().collect();
                prop_assert!(list.windows(2).all(|pair| pair[0].1 < pair[1].0), "{list:?} neither touch nor overlap");
                for offset in 0..80 {
                    prop_assert_eq!(ranges.contains(offset), set.contains(&offset));
                    let end = (offset..).find(|next| !set.contains(next)).unwrap_or(offset);
                    prop_assert_eq!(ranges.end_from(offset), end);
                }
                prop_assert_eq!(ranges.is_empty(), set.is_empty());
            }
        }
    }
}
