//! What the log holds, behind one lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord,
    group::MemberId,
    log::{LETTER_BYTES, Position, Settlement},
};

use crate::{
    groups::GroupState,
    plan::{self, Call, Fate, Plan},
    process::Process,
    switch::Switch,
    topics::Topics,
};

/// Shared by the log and every handle of it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Whether receipts wait ([`Faults::hold_receipts`](crate::Faults::hold_receipts)).
    pub(crate) receipts_held: Switch<bool>,
}

impl Shared {
    pub(crate) fn new(topics: Topics) -> Arc<Self> {
        let state = State {
            closed: false,
            topics,
            groups: BTreeMap::new(),
            epochs: BTreeMap::new(),
            next_member: 0,
            next_process: 0,
            plan: Plan::default(),
        };
        Arc::new(Self { state: Mutex::new(state), receipts_held: Switch::new(false) })
    }

    /// A program of its own.
    pub(crate) fn process(&self) -> Arc<Process> {
        let mut state = self.lock();
        state.next_process += 1;
        Arc::new(Process::new(state.next_process))
    }

    /// Decides what becomes of a call.
    pub(crate) fn fate(&self, call: Call) -> Fate {
        self.lock().plan.fate(call)
    }

    /// The state, of a log that is open.
    pub(crate) fn open(&self) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.lock();
        if state.closed {
            return Err(LogError::new(LogErrorKind::Closed, "the log was closed"));
        }
        Ok(state)
    }

    /// The state, open or not.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) closed: bool,
    pub(crate) topics: Topics,
    pub(crate) groups: BTreeMap<String, GroupState>,
    /// The newest producer of each transactional id.
    pub(crate) epochs: BTreeMap<String, u64>,
    pub(crate) next_member: MemberId,
    next_process: u64,
    pub(crate) plan: Plan,
}

impl State {
    /// A group that has had a member.
    pub(crate) fn group(&self, name: &str) -> Result<&GroupState, LogError> {
        self.groups.get(name).ok_or_else(|| no_group(name))
    }

    /// A group that has had a member, and the topics that its changes need.
    pub(crate) fn group_mut(&mut self, name: &str) -> Result<(&mut GroupState, &Topics), LogError> {
        Ok((self.groups.get_mut(name).ok_or_else(|| no_group(name))?, &self.topics))
    }

    /// All groups, and the topics that their changes need.
    pub(crate) fn groups_mut(&mut self) -> (&mut BTreeMap<String, GroupState>, &Topics) {
        (&mut self.groups, &self.topics)
    }

    /// Appends and settles as one: everything is checked before anything is changed.
    pub(crate) fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(&str, MemberId, Vec<Settlement>)>,
    ) -> Result<Vec<Position>, LogError> {
        for record in &records {
            self.topics.check(record, LETTER_BYTES)?;
            if let Some(kind) = self.plan.outage(record.topic.as_str()) {
                return Err(plan::error(kind, &record.topic));
            }
        }
        if let Some((group, member, settlements)) = &settlements {
            let state = self.group(group)?;
            state.check_client(*member)?;
            for settlement in settlements {
                if aqueduct_core::planted("memory-commits-for-anybody") {
                    continue;
                }
                state.check(group, *member, settlement, &self.topics)?;
            }
        }
        let positions = records
            .into_iter()
            .map(|record| self.topics.append(record, LETTER_BYTES))
            .collect::<Result<_, _>>()?;
        if let Some((group, _, settlements)) = settlements {
            let (state, _) = self.group_mut(group)?;
            for settlement in settlements {
                state.store(settlement);
            }
        }
        Ok(positions)
    }
}

fn no_group(name: &str) -> LogError {
    LogError::new(LogErrorKind::Configuration, format!("group {name} has never had a member"))
}
