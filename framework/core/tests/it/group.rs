use std::collections::{BTreeMap, BTreeSet};

use aqueduct_core::{
    TopicName,
    group::{Group, MemberId, Move},
    log::PartitionId,
};
use proptest::{collection::vec, prelude::*};

#[derive(Debug, Clone)]
enum Step {
    /// A new member that reads `a`, `b` or both.
    Join {
        a: bool,
    },
    JoinBoth,
    /// One of the members leaves.
    Leave(prop::sample::Index),
    /// One of the members gives up some of what it was asked for.
    Answer(prop::sample::Index, prop::sample::Index),
    /// A member answers for a partition that nobody asked it for.
    Unasked(prop::sample::Index, i32),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        any::<bool>().prop_map(|a| Step::Join { a }),
        Just(Step::JoinBoth),
        index().prop_map(Step::Leave),
        (index(), index()).prop_map(|(member, count)| Step::Answer(member, count)),
        (index(), 0..8).prop_map(|(member, partition)| Step::Unasked(member, partition)),
    ]
}

/// The members' own view, made of nothing but what they were told.
#[derive(Debug, Default)]
struct Members {
    held: BTreeMap<MemberId, BTreeSet<PartitionId>>,
    asked: BTreeMap<MemberId, BTreeSet<PartitionId>>,
    topics: BTreeMap<MemberId, BTreeSet<TopicName>>,
    next: MemberId,
}

impl Members {
    fn pick(&self, index: prop::sample::Index) -> Option<MemberId> {
        let members: Vec<_> = self.held.keys().copied().collect();
        (!members.is_empty()).then(|| *index.get(&members))
    }

    fn join(&mut self, group: &mut Group, topics: BTreeSet<TopicName>, partitions: &[PartitionId]) {
        self.next += 1;
        self.held.insert(self.next, BTreeSet::new());
        self.topics.insert(self.next, topics.clone());
        let moves = group.join(self.next, topics, partitions.iter().cloned());
        self.told(moves);
    }

    fn leave(&mut self, group: &mut Group, member: MemberId) {
        self.held.remove(&member);
        self.asked.remove(&member);
        self.topics.remove(&member);
        let moves = group.leave(member);
        self.told(moves);
    }

    fn answer(&mut self, group: &mut Group, member: MemberId, count: usize) {
        let asked = self.asked.entry(member).or_default();
        let given: Vec<_> = asked.iter().take(count).cloned().collect();
        for partition in &given {
            asked.remove(partition);
            self.held.entry(member).or_default().remove(partition);
        }
        let moves = group.revoked(member, &given);
        self.told(moves);
    }

    fn told(&mut self, moves: Vec<Move>) {
        for one in moves {
            match one {
                Move::Assign(member, partitions) => {
                    for partition in partitions {
                        assert!(self.topics[&member].contains(&partition.topic), "{partition} is not read");
                        let owner = self.held.iter().find(|(_, held)| held.contains(&partition));
                        assert!(owner.is_none(), "{partition} has two owners: {owner:?} and {member}");
                        self.held.entry(member).or_default().insert(partition);
                    }
                }
                Move::Revoke(member, partitions) => {
                    for partition in partitions {
                        assert!(self.held[&member].contains(&partition), "{member} has no {partition}");
                        assert!(self.asked.entry(member).or_default().insert(partition), "asked twice");
                    }
                }
            }
        }
    }

    fn check(&self, group: &Group, partitions: &[PartitionId]) {
        for (member, held) in &self.held {
            assert_eq!(&group.owned_by(*member).into_iter().collect::<BTreeSet<_>>(), held);
        }
        if self.asked.values().any(|asked| !asked.is_empty()) {
            return;
        }
        for topic in partitions.iter().map(|partition| &partition.topic).collect::<BTreeSet<_>>() {
            let count = |held: &BTreeSet<PartitionId>| held.iter().filter(|one| one.topic == *topic).count();
            let loads: Vec<_> = self
                .topics
                .iter()
                .filter(|(_, topics)| topics.contains(topic))
                .map(|(member, _)| count(&self.held[member]))
                .collect();
            let Some((least, most)) = loads.iter().min().zip(loads.iter().max()) else { continue };
            assert!(most - least <= 1, "{topic} is uneven: {loads:?}");
            let all = partitions.iter().filter(|partition| partition.topic == *topic).count();
            assert_eq!(loads.iter().sum::<usize>(), all, "{topic} has partitions without owner");
        }
    }
}

proptest! {
    /// P9: whatever the order of joins, leaves and answers, no partition has two owners; once all have answered,
    /// each has one, evenly. Red when `balance` assigns what is being revoked, or `leave` forgets to balance.
    #[test]
    fn partitions_have_one_owner_and_are_even(
        counts in (0..8_i32, 0..8_i32),
        steps in vec(step(), 0..40),
    ) {
        let [a, b] = ["a", "b"].map(|name| TopicName::new(name).unwrap());
        let of = |topic: &TopicName, count| {
            let topic = topic.clone();
            (0..count).map(move |partition| PartitionId { topic: topic.clone(), partition })
        };
        let partitions: Vec<_> = of(&a, counts.0).chain(of(&b, counts.1)).collect();
        let (mut group, mut members) = (Group::new(), Members::default());
        for step in steps {
            match step {
                Step::Join { a: true } => members.join(&mut group, [a.clone()].into(), &partitions),
                Step::Join { a: false } => members.join(&mut group, [b.clone()].into(), &partitions),
                Step::JoinBoth => members.join(&mut group, [a.clone(), b.clone()].into(), &partitions),
                Step::Leave(index) => {
                    if let Some(member) = members.pick(index) {
                        members.leave(&mut group, member);
                    }
                }
                Step::Answer(index, count) => {
                    if let Some(member) = members.pick(index) {
                        members.answer(&mut group, member, count.index(9));
                    }
                }
                Step::Unasked(index, partition) => {
                    if let Some(member) = members.pick(index) {
                        let partition = PartitionId { topic: a.clone(), partition };
                        let asked = members.asked.get(&member).is_some_and(|asked| asked.contains(&partition));
                        if !asked {
                            let moves = group.revoked(member, &[partition]);
                            members.told(moves);
                        }
                    }
                }
            }
            members.check(&group, &partitions);
        }
        // Everybody answers until nobody is asked: it must come to rest.
        for round in 0.. {
            let waiting: Vec<_> =
                members.asked.iter().filter(|(_, asked)| !asked.is_empty()).map(|(member, _)| *member).collect();
            if waiting.is_empty() {
                break;
            }
            prop_assert!(round < 10, "does not come to rest: {:?}", members);
            for member in waiting {
                members.answer(&mut group, member, usize::MAX);
            }
        }
        members.check(&group, &partitions);
        prop_assert_eq!(group.is_empty(), members.held.is_empty());
    }
}
