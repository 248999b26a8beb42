//! Records as a log holds them, and what they are: events, or copies that a group set aside (`docs/formats.md`).

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use crate::{
    crc::crc32,
    observation::{Observation, Place},
};

/// A record.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where it stands.
    pub place: Place,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers; of repeated ones the last.
    pub headers: BTreeMap<String, String>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

impl Stored {
    /// What this record is: one of an event topic, or a copy that a group of `<group>.<topic>` set aside. None where it
    /// is neither. `topic_of` tells the name of the topic with these 16 bytes as its id.
    ///
    /// # Errors
    /// It stands in a topic for copies, and is none.
    pub fn observe(
        &self,
        topic_of: impl FnOnce(&[u8]) -> Option<String>,
    ) -> anyhow::Result<Option<Observation>> {
        let name = self.place.topic.as_str();
        if name.ends_with(".outbox-cursor") || name.ends_with(".control") {
            return Ok(None);
        }
        if name.ends_with(".dead") {
            let header = |name: &str| self.headers.get(name).with_context(|| format!("no header {name}"));
            let topic = header("aqueduct_dead_topic")?.clone();
            let partition = header("aqueduct_dead_partition")?.parse()?;
            let place = Place { topic, partition, offset: header("aqueduct_dead_offset")?.parse()? };
            let group = group_of(name, &place.topic, ".dead")?;
            let crc = crc32(self.value.as_deref().unwrap_or_default());
            return Ok(Some(Observation::Letter { group, place, crc }));
        }
        if name.ends_with(".parked") {
            let key = self.key.as_deref().unwrap_or_default();
            let (uuid, offset) = key.split_at_checked(16).context("its key is no topic id and offset")?;
            let offset = i64::from_be_bytes(offset.try_into().context("its key is no topic id and offset")?);
            let topic = topic_of(uuid).context("its key names no topic")?;
            let group = group_of(name, &topic, ".parked")?;
            let place = Place { topic, partition: self.place.partition, offset };
            return Ok(Some(match &self.value {
                None => Observation::EndMark { group, place },
                Some(frame) => Observation::Parked { group, place, crc: crc32(parked_payload(frame)?) },
            }));
        }
        let key = self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        let crc = crc32(self.value.as_deref().unwrap_or_default());
        let id = self.headers.get("ce_id").cloned();
        Ok(Some(Observation::Record { place: self.place.clone(), id, key, crc }))
    }

    /// The effect that this record is, where the records of a topic are effects: `seq` is its number in reading order.
    ///
    /// # Errors
    /// Its value tells of none.
    pub fn effect(&self, seq: i64) -> anyhow::Result<Observation> {
        let value = self.value.as_deref().unwrap_or_default();
        let Told { effect } = serde_json::from_slice(value).context("the value tells of no effect")?;
        let Effect { group, id, topic, partition, offset, generation } = effect;
        let (place, stages) = (Place { topic, partition, offset }, self.headers.get("ce_id").cloned());
        Ok(Observation::Effect { group, id, place, generation, seq, stages: stages.into_iter().collect() })
    }
}

/// What a record of a topic of effects tells, under `effect` in its JSON.
#[derive(Debug, serde::Deserialize)]
struct Told {
    effect: Effect,
}

#[derive(Debug, serde::Deserialize)]
struct Effect {
    group: String,
    id: String,
    topic: String,
    partition: i32,
    offset: i64,
    generation: i64,
}

fn group_of(name: &str, topic: &str, suffix: &str) -> anyhow::Result<String> {
    let group = name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix(topic)?.strip_suffix('.'));
    group.map(str::to_owned).with_context(|| format!("{name} is not of {topic}"))
}

/// What the frame of a parked copy says of its parts; the record's value stands last.
#[derive(Debug, serde::Deserialize)]
struct Described {
    value: Option<usize>,
}

/// The original value in a parked copy's frame: `[u8 1][u32 LE length][JSON][key][headers][value]`.
fn parked_payload(frame: &[u8]) -> anyhow::Result<&[u8]> {
    let cut = "the frame is cut short";
    let Some((1, rest)) = frame.split_first() else { bail!("the frame is of no known format") };
    let (length, rest) = rest.split_first_chunk::<4>().context(cut)?;
    let (json, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length))?).context(cut)?;
    let described: Described = serde_json::from_slice(json)?;
    let start = rest.len().checked_sub(described.value.unwrap_or(0)).context(cut)?;
    Ok(&rest[start..])
}
