//! Which member reads which partition: each as many as the others, and moving as few as possible.
//!
//! The aims are those of Kafka's sticky assignor (KIP-54); the method is simpler. Partitions stay where they are, those that
//! nobody has go to whoever has the fewest, and then they move, one by one, from who has most to who has at least two fewer.

/// Assigns partitions to members, both by their numbers. `topics` has the topic of each partition, `candidates` the members that
/// read each topic, `current` who has each partition now. A partition whose topic nobody reads is nobody's.
pub(crate) fn assign(
    members: usize,
    topics: &[usize],
    candidates: &[Vec<usize>],
    current: &[Option<usize>],
) -> Vec<Option<usize>> {
    let mut load = vec![0_usize; members];
    let readers = |partition: usize| {
        topics.get(partition).and_then(|topic| candidates.get(*topic)).map(Vec::as_slice).unwrap_or_default()
    };
    let mut target: Vec<Option<usize>> = (0..topics.len())
        .map(|partition| current.get(partition).copied().flatten().filter(|owner| readers(partition).contains(owner)))
        .collect();
    for owner in target.iter().flatten() {
        load[*owner] += 1;
    }
    for (partition, target) in target.iter_mut().enumerate() {
        if target.is_none() {
            *target = least(readers(partition), &load);
            target.iter().for_each(|owner| load[*owner] += 1);
        }
    }
    let mut owned: Vec<Vec<usize>> = vec![Vec::new(); members];
    for (partition, owner) in target.iter().enumerate() {
        owner.iter().for_each(|owner| owned[*owner].push(partition));
    }
    loop {
        let mut donors: Vec<usize> = (0..members).collect();
        donors.sort_by_key(|member| std::cmp::Reverse(load[*member]));
        let mut moved = false;
        for donor in donors {
            // The last ones first: the oldest have been there for the longest.
            for at in (0..owned[donor].len()).rev() {
                let partition = owned[donor][at];
                let Some(taker) = least(readers(partition), &load).filter(|taker| load[*taker] + 2 <= load[donor])
                else {
                    continue;
                };
                owned[donor].remove(at);
                owned[taker].push(partition);
                (load[donor], load[taker]) = (load[donor] - 1, load[taker] + 1);
                target[partition] = Some(taker);
                moved = true;
            }
        }
        // The sum of the squares of the loads falls with each move, so this ends.
        if !moved {
            return target;
        }
    }
}

fn least(members: &[usize], load: &[usize]) -> Option<usize> {
    members.iter().copied().min_by_key(|member| (load[*member], *member))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::assign;

    #[test]
    fn members_share_and_little_moves() {
        let topics = vec![0; 7];
        let alone = assign(1, &topics, &[vec![0]], &[None; 7]);
        assert_eq!(alone, [Some(0); 7]);
        let three = assign(3, &topics, &[vec![0, 1, 2]], &alone);
        let count = |who, of: &[Option<usize>]| of.iter().filter(|owner| **owner == Some(who)).count();
        assert_eq!([0, 1, 2].map(|who| count(who, &three)), [3, 2, 2]);
        let moved = three.iter().zip(&alone).filter(|(new, old)| new != old).count();
        assert_eq!(moved, 4);
        // One leaves: only what it had moves.
        let left: Vec<_> = three.iter().map(|owner| owner.filter(|owner| *owner != 2)).collect();
        let two = assign(3, &topics, &[vec![0, 1]], &left);
        assert!(two.iter().zip(&left).all(|(new, old)| old.is_none() || new == old));
        assert_eq!([0, 1].map(|who| count(who, &two)), [4, 3]);
        assert_eq!(assign(2, &[0, 1], &[vec![], vec![1]], &[Some(0), None]), [None, Some(1)]);
        assert_eq!(assign(0, &[0], &[vec![]], &[None]), [None]);
    }

    proptest! {
        #[test]
        fn everything_is_assigned_in_balance(
            members in 1..8_usize,
            topics in proptest::collection::vec(0..4_usize, 0..40),
            reads in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 8), 4),
            owners in proptest::collection::vec(proptest::option::of(0..8_usize), 40),
        ) {
            let candidates: Vec<Vec<usize>> =
                reads.iter().map(|reads| (0..members).filter(|member| reads[*member]).collect()).collect();
            let current: Vec<_> = owners[..topics.len()].iter().map(|owner| owner.filter(|owner| *owner < members)).collect();
            let target = assign(members, &topics, &candidates, &current);
            let load = |member| target.iter().filter(|owner| **owner == Some(member)).count();
            for (partition, owner) in target.iter().enumerate() {
                let readers = &candidates[topics[partition]];
                prop_assert_eq!(owner.is_none(), readers.is_empty());
                if let Some(owner) = owner {
                    prop_assert!(readers.contains(owner));
                    prop_assert!(readers.iter().all(|other| load(*owner) <= load(*other) + 1), "nobody could take one over");
                }
            }
            prop_assert_eq!(&assign(members, &topics, &candidates, &target), &target, "what is in balance stays");
            if candidates.iter().all(|readers| readers.len() == members) && current.iter().all(Option::is_some) {
                // No more moves than the surplus of those who have too many.
                let fair = topics.len().div_ceil(members);
                let before = |member| current.iter().filter(|owner| **owner == Some(member)).count();
                let moved = target.iter().zip(&current).filter(|(new, old)| new != old).count();
                let floor = topics.len() / members;
                let surplus: usize = (0..members).map(|member| before(member).saturating_sub(floor)).sum();
                let lack: usize = (0..members).map(|member| fair.saturating_sub(before(member))).sum();
                prop_assert!(moved <= surplus.min(lack), "{} moved, {} and {} were to", moved, surplus, lack);
            }
        }
    }
}
