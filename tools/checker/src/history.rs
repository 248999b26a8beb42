//! Gathers observations.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use crate::{
    check,
    observation::{Line, Observation},
    report::Report,
    rules::Rules,
};

/// All that was observed of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub(crate) lines: Vec<Line>,
}

/// A file of observations cannot be read.
#[derive(Debug)]
pub struct HistoryError {
    path: PathBuf,
    line: usize,
    source: io::Error,
}

impl std::fmt::Display for HistoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}: {}", self.path.display(), self.line, self.source)
    }
}

impl std::error::Error for HistoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl History {
    /// A history in which nothing happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what `by` saw at `at`, in microseconds.
    pub fn push(&mut self, at: u64, by: impl Into<String>, saw: Observation) {
        self.lines.push(Line { at, by: by.into(), saw });
    }

    /// What was observed, in the order in which it was added.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Adds the lines of a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is no observation. A last line without its end counts as not written.
    pub fn read(&mut self, path: &Path) -> Result<(), HistoryError> {
        let error = |line, source| HistoryError { path: path.to_owned(), line, source };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(|e| error(0, e))?);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let length = reader.read_until(b'\n', &mut text).map_err(|e| error(number, e))?;
            if length == 0 || text.last() != Some(&b'\n') {
                break;
            }
            self.lines.push(serde_json::from_slice(&text).map_err(|e| error(number, e.into()))?);
        }
        Ok(())
    }

    /// Adds every file of a folder whose name ends in `.jsonl`, by name.
    ///
    /// # Errors
    /// As [`History::read`].
    pub fn read_folder(&mut self, folder: &Path) -> Result<(), HistoryError> {
        let error = |source| HistoryError { path: folder.to_owned(), line: 0, source };
        let entries = std::fs::read_dir(folder).map_err(error)?;
        let mut paths =
            entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(error)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        paths.sort();
        paths.iter().try_for_each(|path| self.read(path))
    }

    /// Decides.
    #[must_use]
    pub fn check(&self, rules: &Rules) -> Report {
        check::all(self, rules)
    }
}
