//! Who has a partition: the group's word, and a database's, which takes it from nobody but who has an older claim.
//!
//! The group decides, and a process that slept has not heard of it; the database goes by who came last. So a claim is good
//! only where the group has confirmed it afterwards: whoever owns the partition next takes it after that. A sleeper that is told
//! no has a claim that is newer than the owner's; the owner, which is fenced by it, asks the group and takes the partition
//! again.
//!
//! All of it waits, for a database that a handler holds, a group without a coordinator or a partition without a leader, so it
//! is a task of its own: the subscription hears signals meanwhile.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aqueduct_core::{
    LogError, LogErrorKind,
    effects::{Claim, Effects, Scope, Taken},
    log::{Assignment, Consumer, Offset, PartitionReader, Start},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    delivery::Shared,
    growth::{Found, Topics},
    owned::Owned,
    partition::Wish,
    progress::Progress,
    running::Running,
    status::PartitionStatus,
    sync::Ordering,
};

/// How long to wait before the group or the database is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is said of a partition that the group does not confirm.
const GONE: &str = "the group has given it to another member, and the word of it is on its way";

/// A partition to be taken up.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) assignment: Assignment,
    /// What was found of it, if it has been looked at.
    pub(crate) found: Option<Found>,
    /// It is taken again, and stood here.
    pub(crate) stood: Option<Offset>,
    /// Another wish than to run, or none any more: it is not wanted.
    wish: watch::Receiver<Wish>,
}

impl Asked {
    pub(crate) fn new(owned: &Owned, found: Option<Found>, stood: Option<Offset>) -> Self {
        Self { assignment: owned.assignment.clone(), found, stood, wish: owned.wish.subscribe() }
    }

    /// It was lost or given back: it is taken from nobody any more.
    fn is_over(&self) -> bool {
        self.wish.has_changed().is_err() || *self.wish.borrow() != Wish::Run
    }
}

/// A partition that was taken up.
pub(crate) struct Taking {
    pub(crate) assignment: Assignment,
    pub(crate) found: Found,
    pub(crate) claim: Option<Claim>,
    pub(crate) ended: Vec<Offset>,
    pub(crate) start: Start,
    /// The settled offset that log and database both have.
    pub(crate) kept: Option<Offset>,
    /// Something is settled in both.
    pub(crate) begun: bool,
}

/// What became of partitions that were to be taken up. Of what is nowhere the group says that it is another's.
#[derive(Default)]
pub(crate) struct Answered {
    /// Those that can be read.
    pub(crate) opened: Vec<Opened>,
    /// Those that could not be read together.
    pub(crate) unopened: Vec<(Asked, Taking)>,
    /// Those that were added, and wait first.
    pub(crate) added: Vec<(Assignment, Found, i32)>,
}

/// A partition that was taken up, and what reads it.
pub(crate) type Opened = (Taking, Box<dyn PartitionReader>);

/// Takes partitions up.
pub(crate) struct Taker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) consumer: Arc<dyn Consumer>,
}

impl Taker {
    /// Looks at them, takes them in the database, asks the group whether they are still this member's, and opens their readers.
    ///
    /// # Errors
    /// What waiting does not mend.
    pub(crate) async fn take_up(self, asked: Vec<Asked>) -> Result<Answered, LogError> {
        let (mut answered, mut topics) = (Answered::default(), HashMap::new());
        let again = asked.iter().any(|one| one.stood.is_some());
        // Before it is taken from anybody.
        let asked = if again { self.confirmed(asked).await? } else { asked };
        let mut taken = Vec::with_capacity(asked.len());
        for mut one in asked {
            let Some(found) = self.find(&one, &mut topics).await? else { continue };
            match found.older {
                Some(older) if !found.grown => answered.added.push((one.assignment, found, older)),
                _ => {
                    let taking = self.take(&mut one, found).await;
                    taken.extend(taking.map(|taking| (one, taking)));
                }
            }
        }
        if self.shared.effects.is_some() && !aqueduct_core::planted("taken-without-asking") {
            let ours = self.confirm(taken.iter().map(|(asked, _)| asked)).await?;
            taken.retain(|(one, _)| ours.iter().any(|ours| same(ours, &one.assignment)));
        }
        self.open(taken, &mut answered).await?;
        Ok(answered)
    }

    /// Opens their readers, with as few questions as there can be. Where one is over, or its leader away, each becomes a matter of
    /// its own.
    async fn open(&self, mut taken: Vec<(Asked, Taking)>, answered: &mut Answered) -> Result<(), LogError> {
        taken.retain(|(asked, _)| !asked.is_over());
        if taken.is_empty() {
            return Ok(());
        }
        let starts = taken.iter().map(|(_, taking)| (taking.assignment.clone(), taking.start)).collect();
        match self.consumer.assign(starts).await {
            Ok(readers) => answered.opened.extend(taken.into_iter().map(|(_, taking)| taking).zip(readers)),
            Err(error) if is_of_one(&error) && !aqueduct_core::planted("unopened-ends-the-client") => {
                for (asked, taking) in taken {
                    // That one is over says nothing of the others.
                    if error.kind() == LogErrorKind::Unreachable {
                        self.say(&asked, &error.to_string());
                    }
                    answered.unopened.push((asked, taking));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Opens the reader of one partition, when it can.
    ///
    /// # Errors
    /// What waiting does not mend.
    async fn open_alone(self, asked: Asked, taking: Taking) -> Result<Answered, LogError> {
        let mut answered = Answered::default();
        while !asked.is_over() {
            match self.consumer.assign(vec![(taking.assignment.clone(), taking.start)]).await {
                Ok(reader) => {
                    answered.opened.extend(std::iter::once(taking).zip(reader));
                    break;
                }
                // The signal that says so is on its way.
                Err(error) if error.kind() == LogErrorKind::StaleGeneration => {
                    let (subscription, partition) =
                        (&self.shared.subscription.name, &asked.assignment.partition);
                    tracing::warn!(subscription, %partition, %error, "an assignment was over before it began");
                    break;
                }
                Err(error) if error.kind() == LogErrorKind::Unreachable => {
                    self.pause(&asked, &error.to_string()).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answered)
    }

    /// Those that the group still gives to this member, with where it stands now.
    async fn confirmed(&self, mut asked: Vec<Asked>) -> Result<Vec<Asked>, LogError> {
        if aqueduct_core::planted("gone-taken-again") {
            return Ok(asked);
        }
        let ours = self.confirm(asked.iter()).await?;
        asked.retain_mut(|one| {
            let newest = ours.iter().find(|ours| same(ours, &one.assignment));
            newest.map(|newest| one.assignment = newest.clone()).is_some()
        });
        Ok(asked)
    }

    async fn confirm(
        &self,
        asked: impl Iterator<Item = &Asked> + Clone,
    ) -> Result<Vec<Assignment>, LogError> {
        while let Some(first) = asked.clone().find(|one| !one.is_over()) {
            let wanted = asked.clone().filter(|one| !one.is_over());
            match self.consumer.confirm(wanted.map(|one| one.assignment.clone()).collect()).await {
                Err(error) if matches!(error.kind(), LogErrorKind::Unreachable | LogErrorKind::Held) => {
                    self.pause(first, &error.to_string()).await;
                }
                answer => return answer,
            }
        }
        Ok(Vec::new())
    }

    /// Takes a partition in the database, waiting for one that does not answer. None where it is not wanted any more.
    async fn take(&self, asked: &mut Asked, found: Found) -> Option<Taking> {
        let (assignment, stood) = (asked.assignment.clone(), asked.stood);
        let in_log = assignment.settled.as_ref().map(|settled| settled.offset);
        let (mut settled, mut claim, mut ended) = (in_log, None, Vec::new());
        if let Some(effects) = &self.shared.effects {
            let taken = self.claim(&**effects, asked).await?;
            // The database decides: what the log has only serves lag tools.
            if !aqueduct_core::planted("log-decides-where-reading-starts") {
                settled = taken.settled;
            }
            claim = Some(taken.claim);
            ended = taken.ended;
        }
        if let Some(replay) = &self.shared.replay {
            ended.extend(replay.range.excepted(&assignment.partition));
        }
        let new = match stood {
            Some(stood) => Start::Offset(stood),
            // Nobody could have handled what came before it was noticed.
            None if found.older.is_some() => Start::Earliest,
            None => self.shared.subscription.start,
        };
        Some(Taking {
            start: settled.map_or(new, Start::Offset),
            // What log and database both have is not stored once more.
            kept: settled.filter(|_| settled == in_log),
            begun: settled.is_some() && in_log.is_some(),
            assignment,
            found,
            claim,
            ended,
        })
    }

    async fn claim(&self, effects: &dyn Effects, asked: &mut Asked) -> Option<Taken> {
        let assignment = &asked.assignment;
        let scope = Scope {
            subscription: self.shared.subscription.name.clone(),
            topic_id: assignment.topic_id,
            partition: assignment.partition.clone(),
        };
        loop {
            let taken = tokio::select! {
                biased;
                // An error: nobody wishes anything any more.
                _ = asked.wish.wait_for(|wish| *wish != Wish::Run) => return None,
                taken = effects.take(&scope) => taken,
            };
            match taken {
                Ok(taken) => return Some(taken),
                Err(error) => self.pause(asked, &error.to_string()).await,
            }
        }
    }

    /// Says why it waits, and waits before a partition is asked for again.
    async fn pause(&self, asked: &Asked, error: &str) {
        if !asked.is_over() {
            self.say(asked, error);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn say(&self, asked: &Asked, error: &str) {
        // Of one that is not wanted any more a newer assignment may be there.
        if asked.is_over() {
            return;
        }
        let (subscription, partition) = (self.shared.subscription.name.as_str(), &asked.assignment.partition);
        tracing::warn!(subscription, %partition, error, "cannot take the partition yet");
        self.shared.board.partition(partition, |status| {
            status.waiting = Some(format!("it cannot be taken yet: {error}"));
            // That it was fenced is why it is taken again, and no reason any more.
            status.stopped = None;
        });
    }

    /// What is to be known of a partition before. None where it is not wanted any more.
    async fn find(&self, asked: &Asked, topics: &mut Topics) -> Result<Option<Found>, LogError> {
        while !asked.is_over() {
            let found = match &asked.found {
                Some(found) => Ok(found.clone()),
                None => self.look(&asked.assignment, topics).await,
            };
            match found {
                Err(error) if error.kind() == LogErrorKind::Unreachable => {
                    self.pause(asked, &error.to_string()).await;
                }
                found => return found.map(Some),
            }
        }
        Ok(None)
    }
}

impl Running {
    /// Begins to take up what was assigned.
    pub(super) fn assign(&mut self, assignments: Vec<Assignment>) {
        let mut asked = Vec::with_capacity(assignments.len());
        for assignment in assignments {
            let settled = assignment.settled.as_ref().map_or(0, |settled| settled.offset);
            let status = PartitionStatus { settled, ..PartitionStatus::default() };
            self.shared.board.lock().partitions.insert(assignment.partition.clone(), status);
            let mut owned = Owned::new(assignment, Arc::new(Progress::new(settled, false, &self.hurry)));
            owned.taking = true;
            asked.push(Asked::new(&owned, None, None));
            self.replace(owned);
        }
        self.take_up(asked);
    }

    /// Begins to take partitions up that are its own already.
    pub(super) fn take_up(&mut self, asked: Vec<Asked>) {
        let about: Vec<_> = asked.iter().map(|one| one.assignment.clone()).collect();
        let taker = self.taker();
        self.takes.spawn(async move { (about, taker.take_up(asked).await) });
    }

    fn taker(&self) -> Taker {
        Taker { shared: Arc::clone(&self.shared), consumer: Arc::clone(&self.consumer) }
    }

    /// Takes in what became of them.
    ///
    /// # Errors
    /// The client is dead, or worse.
    pub(super) fn on_taken(
        &mut self,
        taken: Result<(Vec<Assignment>, Result<Answered, LogError>), tokio::task::JoinError>,
    ) -> Result<(), LogError> {
        let (about, answered) = taken.map_err(|error| {
            LogError::with_source(LogErrorKind::Unreachable, "taking partitions up", error)
        })?;
        let Answered { opened, unopened, added } = answered?;
        // It may have been lost, or asked for, meanwhile.
        let waits = |running: &Self, one: &Assignment| {
            let owned = running.partitions.get(&one.partition);
            owned.is_some_and(|owned| {
                owned.taking
                    && (same(&owned.assignment, one) || aqueduct_core::planted("take-of-another-generation"))
            })
        };
        for (assignment, found, older) in added {
            if waits(self, &assignment) {
                self.let_grow(assignment, found, older);
            }
        }
        for (taking, reader) in opened {
            if waits(self, &taking.assignment) {
                self.begin(taking, reader);
            }
        }
        // Where new ones begin is stored at once.
        self.settle_soon();
        let mut alone = Vec::with_capacity(unopened.len());
        for (asked, taking) in unopened {
            let (about, taker) = (asked.assignment.clone(), self.taker());
            alone.push(about.clone());
            self.takes.spawn(async move { (vec![about], taker.open_alone(asked, taking).await) });
        }
        for assignment in about {
            if waits(self, &assignment)
                && !alone.iter().any(|one| same(one, &assignment))
                && let Some(owned) = self.partitions.get_mut(&assignment.partition)
            {
                // Another's, says the group, whose word of it is on its way. It gives no generation twice, so it is not asked again.
                owned.taking = false;
                owned.closed = true;
                owned.gone = true;
                self.shared.board.partition(&assignment.partition, |status| {
                    status.waiting = Some(GONE.to_owned());
                });
            }
        }
        Ok(())
    }

    /// Partitions that were fenced while the group gives them to this member: a process that had lost them woke and took
    /// them in the database, and was told by the group that they are not its own. Where the group says that they are ours
    /// they are taken again.
    pub(super) fn take_again(&mut self) {
        let mut asked = Vec::new();
        for owned in self.partitions.values_mut().filter(|owned| owned.is_contradicted()) {
            if aqueduct_core::planted("fenced-owner-waits") {
                return;
            }
            owned.taking = true;
            owned.again = Some(Instant::now());
            tracing::warn!(subscription = self.shared.subscription.name, partition = %owned.assignment.partition, "fenced, and the group has not said so: it is asked, and the partition taken again");
            let stood = owned.progress.settled.load(Ordering::Acquire);
            owned.wish = watch::channel(Wish::Run).0;
            asked.push(Asked::new(owned, None, Some(stood)));
        }
        if !asked.is_empty() {
            self.take_up(asked);
        }
    }

    /// Puts a partition in the place of what was known of it.
    pub(super) fn replace(&mut self, mut owned: Owned) {
        let id = owned.assignment.partition.clone();
        if let Some(older) = self.partitions.remove(&id) {
            older.wish(Wish::Lost);
            if older.generation() == owned.generation() {
                owned.again = owned.again.or(older.again);
            }
        }
        self.partitions.insert(id, owned);
    }
}

/// Whether they are of one partition under one generation.
pub(crate) fn same(one: &Assignment, other: &Assignment) -> bool {
    (&one.partition, one.generation) == (&other.partition, other.generation)
}

/// Whether it says something of one partition among those that were to be read.
fn is_of_one(error: &LogError) -> bool {
    matches!(error.kind(), LogErrorKind::StaleGeneration | LogErrorKind::Unreachable)
}
