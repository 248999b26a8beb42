//! What Aqueduct costs per event.
//!
//! - [`harness`]: pairs of runs, ours and the raw loop, interleaved in one process; [`measure`], [`estimate`]
//! - [`events`]: the events that are published and handled; [`random`], keys by Zipf's law
//! - [`raw`]: the raw loops on SQLite: prepared inserts, range selects
//! - [`publish`], [`consume`], [`transact`], [`lanes`]: the rows, each with its raw side
//! - [`curves`]: the cost from one end of an axis to the other
//! - [`prepared`]: a log whose records are ready before the count begins; [`gates`], the paths that are counted

pub mod consume;
pub mod curves;
pub mod estimate;
pub mod events;
pub mod gates;
pub mod harness;
pub mod lanes;
pub mod machine;
pub mod many;
pub mod measure;
pub mod prepared;
pub mod publish;
pub mod random;
pub mod raw;
pub mod sizes;
pub mod transact;
