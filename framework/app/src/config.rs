//! Settings from a TOML file, and over it the environment: `[log] url` is `AQUEDUCT_LOG_URL`. A setting that does
//! not exist is refused with the nearest right name.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io, mem,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aqueduct_core::url;
use serde::{Deserialize, Deserializer, de};
use toml::{Table, Value};

/// The settings of an app; every field has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
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
#[derive(Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Log {
    /// Its URL, such as `embedded:./shop.db`; from [`Config::load`], with the parameters.
    pub url: Option<String>,
    /// `[log.parameters]`: parameters of the URL, such as `partitions = 8` or `"ssl.ca.location" = "/etc/ca.pem"`. Those
    /// of a log on Kafka are in `kafka-parameters.schema.json`.
    #[serde(deserialize_with = "parameters")]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, tests::Scalar>"))]
    parameters: BTreeMap<String, String>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // P11: somebody may have written a secret into it, which the log will refuse.
        f.debug_struct("Log").field("url", &self.url.as_deref().map(url::shown)).finish_non_exhaustive()
    }
}

/// The HTTP listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Http {
    /// The address to listen on.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub listen: Option<SocketAddr>,
}

/// Draining.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Drain {
    /// `deadline_ms`: how long running deliveries may take to end; 4 s by default.
    #[serde(rename = "deadline_ms", deserialize_with = "millis")]
    #[cfg_attr(test, schemars(with = "u64", extend("default" = 4_000)))]
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(4) }
    }
}

/// What is printed.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Logs {
    /// The least level that is printed.
    pub level: Level,
    /// Its form.
    pub format: Format,
}

/// The least level that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Overrides {
    /// How many handlers run at once.
    pub concurrency: Option<usize>,
    /// How many deliveries of a partition may be above its settled offset.
    pub window: Option<usize>,
}

/// Values as they stand in a URL.
fn parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let given = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let texts = given.into_iter().map(|(name, value)| {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => value.to_string(),
            Value::Table(_) => {
                let text = format!("a name with dots that begins with {name:?} must be in quotes");
                return Err(de::Error::custom(text));
            }
            Value::Datetime(_) | Value::Array(_) => {
                return Err(de::Error::custom(format!("{name:?} must be a text, a number, true or false")));
            }
        };
        Ok((name, text))
    });
    texts.collect()
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Every setting; `*` stands for a subscription's name.
const SETTINGS: &[&str] = &[
    "log.url",
    "log.parameters.*",
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
        let mut config: Self =
            serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| ConfigError::Value {
                setting: error.path().to_string(),
                reason: error.inner().message().trim_end().to_owned(),
            })?;
        let parameters = mem::take(&mut config.log.parameters);
        if !parameters.is_empty() {
            let Some(url) = &mut config.log.url else {
                let reason = "there is no log.url that they could belong to".to_owned();
                return Err(ConfigError::Value { setting: "log.parameters".to_owned(), reason });
            };
            *url = url::with_parameters(url, parameters.iter().map(|(name, value)| (&**name, &**value)));
        }
        Ok(config)
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
        // Below a parameter there is no level; reading it says so.
        if let Value::Table(inner) = value
            && !path.starts_with("log.parameters.")
        {
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
    url::nearest(given, names.iter().map(String::as_str)).map(str::to_owned)
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
mod tests;
