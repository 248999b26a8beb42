//! Groups in the database: who is a member, who owns which partition. Every change is made in a write transaction, and
//! all processes see the same state; `groups` tells the members of this process what changed for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aqueduct_core::{
    LogError, TopicName,
    group::{Group, MemberId, Move},
    log::{Assignment, PartitionId, Settled},
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use crate::{
    beacon::{Life, boot_clock, look, millis},
    changes::{Changes, Fault},
    file::unreachable,
    groups::Answer,
    shared::{Shared, lock},
};

/// A member as its row says.
struct Stored {
    id: i64,
    topics: BTreeSet<TopicName>,
    file: String,
    session: Duration,
}

fn members(connection: &Connection, group: &str) -> rusqlite::Result<Vec<Stored>> {
    connection
        .prepare_cached(
            "SELECT id, topics, file, session_ms FROM group_member WHERE group_name = ? ORDER BY id",
        )?
        .query_map([group], |row| {
            let topics: String = row.get(1)?;
            let session: i64 = row.get(3)?;
            Ok(Stored {
                id: row.get(0)?,
                topics: topics.split(' ').filter_map(|name| TopicName::new(name).ok()).collect(),
                file: row.get(2)?,
                session: Duration::from_millis(u64::try_from(session).unwrap_or(0)),
            })
        })?
        .collect()
}

/// What housekeeping has to do in a group.
#[derive(Default)]
struct Due {
    /// Members whose process is no more, or does not run; and why.
    gone: Vec<(i64, String)>,
    /// Partitions that their owner was asked for and did not give back within its session.
    late: Vec<(i64, i64)>,
}

impl Due {
    fn find(shared: &Shared, connection: &Connection, group: &str, own: Option<&str>) -> Result<Self, Fault> {
        let (mut due, now) = (Self::default(), boot_clock());
        let mut sessions = BTreeMap::new();
        for member in members(connection, group)? {
            sessions.insert(member.id, member.session);
            if own == Some(member.file.as_str()) {
                continue;
            }
            let path = &shared.place.path;
            match look(path, &member.file, member.session, now).map_err(|error| unreachable(path, error))? {
                Life::Runs => {}
                Life::Dead => due.gone.push((member.id, "its process has ended".to_owned())),
                Life::Silent(age) => {
                    due.gone.push((member.id, format!("its process has not run for {} ms", age.as_millis())));
                }
            }
        }
        let mut statement = connection.prepare_cached(
            "SELECT partition_id, owner, asked FROM group_partition
             WHERE group_name = ? AND owner IS NOT NULL AND asked IS NOT NULL",
        )?;
        let mut asked = statement.query([group])?;
        while let Some(row) = asked.next()? {
            let (partition, owner, asked): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let session = sessions.get(&owner).copied().unwrap_or_default();
            if millis(now).saturating_sub(asked) > millis(session)
                && !aqueduct_core::planted("embedded-late-answer-waited-for")
            {
                due.late.push((partition, owner));
            }
        }
        Ok(due)
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.late.is_empty()
    }
}

/// Whether a group needs housekeeping: asked often, by every process that has members in it.
pub(crate) fn is_due(
    shared: &Shared,
    connection: &Connection,
    group: &str,
    own: Option<&str>,
) -> Result<bool, LogError> {
    match Due::find(shared, connection, group, own) {
        Ok(due) => Ok(!due.is_empty()),
        Err(Fault::Refused(error)) => Err(error),
        Err(Fault::Database(error)) => Err(shared.error(&format!("cannot look after group {group}"), error)),
    }
}

/// Removes members that are gone, takes what is late, and hands it out.
pub(crate) fn tend(changes: &mut Changes<'_>, group: &str) -> Result<(), Fault> {
    // Another process may have done it first.
    if clear(changes, group)? { balance(changes, group) } else { Ok(()) }
}

/// The housekeeping, judged anew: since it was found due, a member may have woken.
fn clear(changes: &Changes<'_>, group: &str) -> Result<bool, Fault> {
    let own = lock(&changes.shared.groups).token();
    let due = Due::find(changes.shared, changes.connection, group, own.as_deref())?;
    for (member, why) in &due.gone {
        tracing::warn!(group, member, why, "a member is removed from its group, others get its partitions");
        remove(changes.connection, group, *member)?;
    }
    for (partition, owner) in &due.late {
        tracing::warn!(
            group,
            member = owner,
            partition_id = partition,
            "a partition is taken: not given back in time"
        );
        changes
            .connection
            .prepare_cached(
                "UPDATE group_partition SET owner = NULL, asked = NULL
                 WHERE group_name = ? AND partition_id = ? AND owner = ?",
            )?
            .execute(params![group, partition, owner])?;
    }
    Ok(!due.is_empty())
}

/// Adds a member, after those that are gone were removed. Gives its id, which is never given again.
pub(crate) fn join(changes: &mut Changes<'_>, group: &str, topics: &[TopicName]) -> Result<i64, Fault> {
    let path = &changes.shared.place.path;
    let file = lock(&changes.shared.groups)
        .light(path, &changes.shared.options.environment)
        .map_err(|error| unreachable(path, error))?;
    clear(changes, group)?;
    let topics: Vec<_> = topics.iter().map(TopicName::as_str).collect();
    changes
        .connection
        .prepare_cached("INSERT INTO group_member(group_name, topics, file, session_ms) VALUES(?,?,?,?)")?
        .execute(params![group, topics.join(" "), file, millis(changes.shared.options.session)])?;
    let member = changes.connection.last_insert_rowid();
    balance(changes, group)?;
    Ok(member)
}

/// Removes a member that leaves; what it owned goes to others.
pub(crate) fn leave(changes: &mut Changes<'_>, group: &str, member: i64) -> Result<(), Fault> {
    remove(changes.connection, group, member)?;
    balance(changes, group)
}

fn remove(connection: &Connection, group: &str, member: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM group_member WHERE id = ?")?.execute([member])?;
    if aqueduct_core::planted("embedded-removed-member-stays-owner") {
        return Ok(());
    }
    // Not only the row of the member: an owner that is named still settles.
    connection
        .prepare_cached(
            "UPDATE group_partition SET owner = NULL, asked = NULL WHERE group_name = ? AND owner = ?",
        )?
        .execute(params![group, member])?;
    Ok(())
}

/// A member gives back what it was asked for.
pub(crate) fn answer(changes: &mut Changes<'_>, group: &str, answer: &Answer) -> Result<(), Fault> {
    for (partition, generation) in &answer.partitions {
        let topic = changes.topic(&partition.topic)?;
        let Some(found) = topic.partition(partition.partition) else { continue };
        changes
            .connection
            .prepare_cached(
                "UPDATE group_partition SET owner = NULL, asked = NULL WHERE group_name = ? AND partition_id = ?
                 AND owner = ? AND generation = ? AND asked IS NOT NULL",
            )?
            .execute(params![group, found.id, answer.member, generation])?;
    }
    balance(changes, group)
}

/// Hands out what is free, asks for what is due to others, and lets the members of all processes know.
fn balance(changes: &mut Changes<'_>, group: &str) -> Result<(), Fault> {
    let mut ids = BTreeMap::new();
    let mut topics_of: BTreeMap<MemberId, BTreeSet<TopicName>> = BTreeMap::new();
    for member in members(changes.connection, group)? {
        for name in &member.topics {
            let topic = changes.topic(name)?;
            for (partition, number) in topic.partitions.iter().zip(0..) {
                ids.insert(PartitionId { topic: name.clone(), partition: number }, partition.id);
            }
        }
        topics_of.insert(number(member.id), member.topics);
    }
    let by_id: BTreeMap<i64, &PartitionId> = ids.iter().map(|(partition, id)| (*id, partition)).collect();
    let (mut owners, mut asked) = (BTreeMap::new(), BTreeSet::new());
    {
        let mut statement = changes.connection.prepare_cached(
            "SELECT partition_id, owner, asked IS NOT NULL FROM group_partition
             WHERE group_name = ? AND owner IS NOT NULL",
        )?;
        let mut rows = statement.query([group])?;
        while let Some(row) = rows.next()? {
            let Some(partition) = by_id.get(&row.get(0)?) else { continue };
            owners.insert((*partition).clone(), number(row.get(1)?));
            if row.get(2)? {
                asked.insert((*partition).clone());
            }
        }
    }
    let mut state = Group::restore(topics_of, ids.keys().cloned().collect(), owners, asked);
    for step in state.balance() {
        match step {
            Move::Assign(member, partitions) => {
                for id in partitions.iter().filter_map(|partition| ids.get(partition)) {
                    give(changes.connection, group, *id, member)?;
                }
            }
            Move::Revoke(_, partitions) => {
                for id in partitions.iter().filter_map(|partition| ids.get(partition)) {
                    changes
                        .connection
                        .prepare_cached(
                            "UPDATE group_partition SET asked = ? WHERE group_name = ? AND partition_id = ?",
                        )?
                        .execute(params![millis(boot_clock()), group, id])?;
                }
            }
        }
    }
    changes
        .connection
        .prepare_cached(
            "INSERT INTO group_version(group_name, version) VALUES(?, 1)
             ON CONFLICT(group_name) DO UPDATE SET version = version + 1",
        )?
        .execute([group])?;
    Ok(())
}

/// Row ids are positive.
fn number(member: i64) -> MemberId {
    member.unsigned_abs()
}

/// Gives a partition to a member under the next generation.
fn give(connection: &Connection, group: &str, partition: i64, member: MemberId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO group_partition(group_name, partition_id, generation, settled, metadata, owner, asked)
             VALUES(?, ?, 1, NULL, '', ?, NULL)
             ON CONFLICT(group_name, partition_id)
             DO UPDATE SET generation = generation + 1, owner = excluded.owner, asked = NULL",
        )?
        .execute(params![group, partition, i64::try_from(member).unwrap_or(i64::MAX)])?;
    if aqueduct_core::planted("embedded-generation-not-raised") {
        connection.execute("UPDATE group_partition SET generation = 1", [])?;
    }
    Ok(())
}

/// The number of a group's last change.
pub(crate) fn version(connection: &Connection, group: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT version FROM group_version WHERE group_name = ?")?
        .query_row([group], |row| row.get(0))
        .optional()
}

/// Whether a member is one still.
pub(crate) fn is_member(connection: &Connection, member: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM group_member WHERE id = ?")?.exists([member])
}

/// What a member owns, each with whether it is asked for.
pub(crate) fn owned(
    connection: &Connection,
    group: &str,
    member: i64,
) -> rusqlite::Result<Vec<(Assignment, bool)>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.name, p.number, t.uuid, g.generation, g.settled, g.metadata, g.asked IS NOT NULL
         FROM group_partition g JOIN partition p ON p.id = g.partition_id JOIN topic t ON t.id = p.topic_id
         WHERE g.group_name = ? AND g.owner = ? ORDER BY p.id",
    )?;
    let mut rows = statement.query(params![group, member])?;
    let mut owned = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let Ok(topic) = TopicName::new(&name) else { continue };
        let uuid: [u8; 16] = row.get(2)?;
        let assignment = Assignment {
            partition: PartitionId { topic, partition: row.get(1)? },
            topic_id: Uuid::from_bytes(uuid),
            generation: row.get(3)?,
            settled: match row.get(4)? {
                Some(offset) => Some(Settled { offset, metadata: row.get(5)? }),
                None => None,
            },
        };
        owned.push((assignment, row.get(6)?));
    }
    Ok(owned)
}

/// The owner of a partition in a group: its member, if any, and the generation.
pub(crate) type Owner = (Option<i64>, i64);

/// Who owns a partition; none where the group never had it.
pub(crate) fn owner(connection: &Connection, group: &str, partition: i64) -> rusqlite::Result<Option<Owner>> {
    connection
        .prepare_cached(
            "SELECT owner, generation FROM group_partition WHERE group_name = ? AND partition_id = ?",
        )?
        .query_row(params![group, partition], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}
