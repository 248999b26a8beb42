//! The decisions, one file each.

mod delivered;
mod drained;
mod fenced;
mod late;
mod progress;
mod published;
mod settled;
mod tables;
#[cfg(test)]
mod tests;
mod void;

use crate::{
    history::History,
    report::{Kind, Report, Verdict},
    rules::Rules,
};
use tables::Tables;

/// Takes verdicts as they are found.
#[derive(Debug, Default)]
struct Court(Vec<Verdict>);

impl Court {
    fn find(&mut self, kind: Kind, what: String) {
        self.0.push(Verdict { kind, what });
    }
}

pub(crate) fn all(history: &History, rules: &Rules) -> Report {
    let mut court = Court::default();
    let tables = Tables::new(history, &mut court);
    published::check(&tables, rules, &mut court);
    delivered::check(&tables, rules, &mut court);
    let duplicates = delivered::duplicates(&tables, rules, &mut court);
    settled::check(&tables, rules, &mut court);
    fenced::check(&tables, &mut court);
    progress::check(&tables, rules, &mut court);
    drained::check(&tables, rules, &mut court);
    let counts = void::counts(&tables, rules, duplicates);
    let void = void::reason(&tables, rules, &counts);
    Report { verdicts: court.0, void, counts }
}
