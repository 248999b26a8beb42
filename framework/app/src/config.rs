//! Settings from a TOML file, and over it the environment: `[log] url` is `AQUEDUCT_LOG_URL`. A setting that does
//! not exist is refused with the nearest right name.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

/// The settings of an app; every field has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Config {
    /// `[log]`
    pub log: Log,
    /// `[http]`
    pub http: Http,
    /// `[drain]`
    pub drain: Drain,
    /// `[logs]`
    pub logs: Logs,
    /// `[subscriptions.<name>]`
    pub subscriptions: BTreeMap<String, Overrides>,
}

/// The commit log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Log {
    /// Its URL, such as `embedded:./shop.db`.
    pub url: Option<String>,
}

/// The HTTP listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Http {
    /// The address to listen on.
    pub listen: Option<SocketAddr>,
}

/// Draining.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Drain {
    /// `deadline_ms`: how long running deliveries may take to end; 4 s by default.
    #[serde(rename = "deadline_ms", deserialize_with = "millis")]
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(4) }
    }
}

/// What is printed.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Logs {
    /// The least level that is printed.
    pub level: Level,
    /// Its form.
    pub format: Format,
}

/// The least level that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And details.
    Debug,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Settings of one subscription that take the place of the declared ones.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Overrides {
    /// How many handlers run at once.
    pub concurrency: Option<usize>,
    /// How many deliveries of a partition may be above its settled offset.
    pub window: Option<usize>,
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Every setting; `*` stands for a subscription's name.
const SETTINGS: &[&str] = &[
    "log.url",
    "http.listen",
    "drain.deadline_ms",
    "logs.level",
    "logs.format",
    "subscriptions.*.concurrency",
    "subscriptions.*.window",
];

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("unknown setting {setting} in {place}{}", nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    Unknown {
        /// The setting as written.
        setting: String,
        /// Where it was written.
        place: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// A value is not of the setting's kind.
    #[error("setting {setting}: {reason}")]
    Value {
        /// The setting.
        setting: String,
        /// What is wrong.
        reason: String,
    },
}

impl Config {
    /// Reads the settings: the file, if there is one, then the variables of `environment` that start with
    /// `AQUEDUCT_`.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML, a setting does not exist, or a value is not of its kind.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut table = Table::new();
        if let Some(path) = path {
            let text = fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            table = text
                .parse()
                .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
            check(&table, "", &path.display().to_string())?;
        }
        for (name, value) in environment {
            // What is not UTF-8 in the names or values of other programs does not concern us.
            let name = name.to_string_lossy();
            if name.starts_with("AQUEDUCT_") {
                set(&mut table, &name, value)?;
            }
        }
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| ConfigError::Value {
            setting: error.path().to_string(),
            reason: error.inner().message().trim_end().to_owned(),
        })
    }
}

/// Whether a path, or a part of one, stands in [`SETTINGS`].
fn known(path: &str) -> bool {
    let parts: Vec<_> = path.split('.').collect();
    SETTINGS.iter().any(|setting| {
        let mut names = setting.split('.');
        parts.iter().all(|part| names.next().is_some_and(|name| name == "*" || name == *part))
    })
}

fn check(table: &Table, prefix: &str, place: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        // A dot in a quoted name is not a level.
        let path = if prefix.is_empty() {
            name.replace('.', "_")
        } else {
            format!("{prefix}.{}", name.replace('.', "_"))
        };
        if !known(&path) {
            let nearest = nearest(&path, SETTINGS.iter().map(|setting| with_names_of(setting, &path)));
            return Err(ConfigError::Unknown { setting: path, place: place.to_owned(), nearest });
        }
        if let Value::Table(inner) = value {
            check(inner, &path, place)?;
        }
    }
    Ok(())
}

/// A setting with its `*` replaced by what stands there in `path`.
fn with_names_of(setting: &str, path: &str) -> String {
    let mut given = path.split('.');
    let parts = setting.split('.').map(|part| {
        let given = given.next();
        if part == "*" { given.unwrap_or("<name>") } else { part }
    });
    parts.collect::<Vec<_>>().join(".")
}

fn nearest(given: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<_> = names.collect();
    aqueduct_core::url::nearest(given, names.iter().map(String::as_str)).map(str::to_owned)
}

fn variable(setting: &str) -> String {
    format!("AQUEDUCT_{}", setting.replace('.', "_").to_uppercase())
}

fn set(table: &mut Table, name: &str, value: OsString) -> Result<(), ConfigError> {
    let fixed = || SETTINGS.iter().filter(|setting| !setting.contains('*'));
    let Some(setting) = fixed().find(|setting| variable(setting) == name) else {
        let nearest = nearest(name, fixed().map(|setting| variable(setting)));
        return Err(ConfigError::Unknown {
            setting: name.to_owned(),
            place: "the environment".to_owned(),
            nearest,
        });
    };
    let (section, field) = setting.split_once('.').unwrap_or((setting, ""));
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let value = value.into_string().map_err(|value| ConfigError::Value {
        setting: name.to_owned(),
        reason: format!("it is not UTF-8: {value:?}"),
    })?;
    // Numbers are the only settings that are not text.
    let value = value.parse().map_or(Value::String(value), Value::Integer);
    if let Value::Table(section) = section {
        section.insert(field.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), toml).unwrap();
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(Some(file.path()), environment)
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let toml = "[log]\nurl = 'memory:'\n[drain]\ndeadline_ms = 10\n[subscriptions.stock]\nwindow = 7";
        let config = load(toml, &[("AQUEDUCT_DRAIN_DEADLINE_MS", "20"), ("HOME", "/")]).unwrap();
        assert_eq!(config.log.url.as_deref(), Some("memory:"));
        assert_eq!(config.drain.deadline, Duration::from_millis(20));
        assert_eq!(config.subscriptions["stock"].window, Some(7));
        assert_eq!(config.logs.level, Level::Info);
    }

    /// P12. Red when `check` returns `Ok` at once: the misspelt setting is then ignored.
    #[test]
    fn a_misspelt_setting_is_refused_with_the_nearest_name() {
        let error = |toml, environment: &[_]| load(toml, environment).unwrap_err();
        assert_eq!(
            error("[drain]\ndedline_ms = 1", &[]),
            "unknown setting drain.dedline_ms in FILE; did you mean drain.deadline_ms?"
        );
        assert_eq!(
            error("[subscriptions.stock]\nconcurency = 1", &[]),
            "unknown setting subscriptions.stock.concurency in FILE; did you mean subscriptions.stock.concurrency?"
        );
        assert_eq!(error("zzz = 1", &[]), "unknown setting zzz in FILE");
        assert_eq!(
            error("", &[("AQUEDUCT_LOG_URI", "memory:")]),
            "unknown setting AQUEDUCT_LOG_URI in the environment; did you mean AQUEDUCT_LOG_URL?"
        );
        assert_eq!(
            error("[http]\nlisten = 'here'", &[]),
            "setting http.listen: invalid socket address syntax"
        );
        assert!(
            error("[logs]\nlevel = 'loud'", &[]).starts_with("setting logs.level: unknown variant `loud`")
        );
        assert!(error("[log", &[]).starts_with("FILE is not TOML: "));
    }
}
