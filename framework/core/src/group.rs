//! Who owns which partition, for logs that balance their groups themselves. Pure state: the adapter keeps it behind its
//! own lock, or restores it in each transaction, and carries the moves out. Hand-over is cooperative: a partition is
//! given only after its owner answered.

use std::collections::{BTreeMap, BTreeSet};

use crate::{log::PartitionId, name::TopicName};

/// A member of a group, by number.
pub type MemberId = u64;

/// Something to tell a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Give these partitions to the member, each under a new generation.
    Assign(MemberId, Vec<PartitionId>),
    /// Ask the member for these partitions; it answers with [`Group::revoked`].
    Revoke(MemberId, Vec<PartitionId>),
}

/// The members of one group and what they own.
#[derive(Debug, Default)]
pub struct Group {
    members: BTreeMap<MemberId, BTreeSet<TopicName>>,
    partitions: BTreeSet<PartitionId>,
    owners: BTreeMap<PartitionId, MemberId>,
    revoking: BTreeSet<PartitionId>,
}

impl Group {
    /// A group without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A group as an adapter stored it: its members, the partitions of their topics, who owns what, and what its owner
    /// was asked for. What belongs to nobody here is free.
    #[must_use]
    pub fn restore(
        members: BTreeMap<MemberId, BTreeSet<TopicName>>,
        partitions: BTreeSet<PartitionId>,
        mut owners: BTreeMap<PartitionId, MemberId>,
        mut revoking: BTreeSet<PartitionId>,
    ) -> Self {
        owners.retain(|_, owner| members.contains_key(owner));
        revoking.retain(|partition| owners.contains_key(partition));
        Self { members, partitions, owners, revoking }
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a member that reads `topics`, which have these partitions.
    pub fn join(
        &mut self,
        member: MemberId,
        topics: BTreeSet<TopicName>,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Vec<Move> {
        self.members.insert(member, topics);
        self.partitions.extend(partitions);
        self.balance()
    }

    /// Removes a member; what it owned goes to others at once.
    pub fn leave(&mut self, member: MemberId) -> Vec<Move> {
        self.members.remove(&member);
        let freed: Vec<_> = self.owned_by(member);
        for partition in freed {
            self.owners.remove(&partition);
            self.revoking.remove(&partition);
        }
        self.balance()
    }

    /// A member answered a revoke.
    pub fn revoked(&mut self, member: MemberId, partitions: &[PartitionId]) -> Vec<Move> {
        for partition in partitions {
            if self.owners.get(partition) == Some(&member) && self.revoking.remove(partition) {
                self.owners.remove(partition);
            }
        }
        self.balance()
    }

    /// What a member owns now, partitions being revoked included.
    #[must_use]
    pub fn owned_by(&self, member: MemberId) -> Vec<PartitionId> {
        self.owners
            .iter()
            .filter(|(_, owner)| **owner == member)
            .map(|(partition, _)| partition.clone())
            .collect()
    }

    /// What is due. Sticky and even per topic: members keep what they have up to their share, the rest is asked for, and
    /// free partitions go to who has least.
    pub fn balance(&mut self) -> Vec<Move> {
        let mut assign: BTreeMap<MemberId, Vec<PartitionId>> = BTreeMap::new();
        let mut revoke: BTreeMap<MemberId, Vec<PartitionId>> = BTreeMap::new();
        let topics: BTreeSet<_> = self.members.values().flatten().cloned().collect();
        for topic in topics {
            let members: Vec<_> = self
                .members
                .iter()
                .filter(|(_, topics)| topics.contains(&topic))
                .map(|(id, _)| *id)
                .collect();
            let partitions: Vec<_> =
                self.partitions.iter().filter(|partition| partition.topic == topic).cloned().collect();
            let share = partitions.len() / members.len();
            let mut larger = partitions.len() % members.len();
            let mut load: BTreeMap<MemberId, usize> = members.iter().map(|id| (*id, 0)).collect();
            for partition in &partitions {
                let Some(owner) = self.owners.get(partition) else { continue };
                let Some(held) = load.get_mut(owner) else { continue };
                let keeps = *held < share || (*held == share && larger > 0);
                if keeps && !self.revoking.contains(partition) {
                    if *held == share {
                        larger -= 1;
                    }
                    *held += 1;
                } else if self.revoking.insert(partition.clone()) {
                    revoke.entry(*owner).or_default().push(partition.clone());
                }
            }
            for partition in partitions {
                let asked =
                    crate::planted("given-before-its-owner-answered") && self.revoking.remove(&partition);
                if self.owners.contains_key(&partition) && !asked {
                    continue;
                }
                if let Some((member, held)) = load.iter_mut().min_by_key(|(id, held)| (**held, **id)) {
                    *held += 1;
                    self.owners.insert(partition.clone(), *member);
                    assign.entry(*member).or_default().push(partition);
                }
            }
        }
        let revoke = revoke.into_iter().map(|(member, partitions)| Move::Revoke(member, partitions));
        revoke
            .chain(assign.into_iter().map(|(member, partitions)| Move::Assign(member, partitions)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicName {
        TopicName::new("t").unwrap()
    }

    fn partitions(numbers: impl IntoIterator<Item = i32>) -> Vec<PartitionId> {
        numbers.into_iter().map(|partition| PartitionId { topic: topic(), partition }).collect()
    }

    fn join(group: &mut Group, member: MemberId) -> Vec<Move> {
        group.join(member, BTreeSet::from([topic()]), partitions(0..4))
    }

    /// P9. Red when `balance` assigns a partition that is still being revoked.
    #[test]
    fn a_partition_is_given_only_after_its_owner_answered() {
        let mut group = Group::new();
        assert_eq!(join(&mut group, 1), [Move::Assign(1, partitions(0..4))]);
        assert_eq!(join(&mut group, 2), [Move::Revoke(1, partitions(2..4))]);
        assert_eq!(group.revoked(1, &partitions([2])), [Move::Assign(2, partitions([2]))]);
        // A second answer for the same partition comes too late to take it from its new owner.
        assert_eq!(group.revoked(1, &partitions([2])), []);
        assert_eq!(group.revoked(1, &partitions([3])), [Move::Assign(2, partitions([3]))]);
        assert_eq!(group.owned_by(1), partitions(0..2));
    }

    /// P9. Red when `restore` keeps the owner of a member that is not there, or forgets what was asked for.
    #[test]
    fn a_restored_group_goes_on() {
        let members = BTreeMap::from([(1, BTreeSet::from([topic()])), (2, BTreeSet::from([topic()]))]);
        let owners = partitions(0..4).into_iter().zip([1, 1, 1, 9]).collect();
        let asked = partitions([2, 3]).into_iter().collect();
        let mut group = Group::restore(members, partitions(0..4).into_iter().collect(), owners, asked);
        assert_eq!(group.balance(), [Move::Assign(2, partitions([3]))]);
        assert_eq!(group.balance(), []);
        assert_eq!(group.revoked(1, &partitions([2])), [Move::Assign(2, partitions([2]))]);
    }

    #[test]
    fn a_leaver_loses_what_was_being_revoked_too() {
        let mut group = Group::new();
        join(&mut group, 1);
        join(&mut group, 2);
        assert_eq!(group.leave(1), [Move::Assign(2, partitions(0..4))]);
        assert_eq!(group.leave(2), []);
        assert!(group.is_empty());
    }

    #[test]
    fn more_members_than_partitions_leaves_some_without() {
        let mut group = Group::new();
        for member in 1..=6 {
            for step in join(&mut group, member) {
                if let Move::Revoke(owner, asked) = step {
                    group.revoked(owner, &asked);
                }
            }
        }
        let held: Vec<_> = (1..=6).map(|member| group.owned_by(member).len()).collect();
        assert_eq!(held, [1, 1, 1, 1, 0, 0]);
    }
}
