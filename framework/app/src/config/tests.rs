use super::*;

/// What the value of a parameter may be in a file.
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by its schema alone")]
pub(super) enum Scalar {
    Text(String),
    Number(f64),
    Choice(bool),
}

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

/// Red when a parameter of the file is dropped, or printed: it may be a secret in the wrong place.
#[test]
fn parameters_go_into_the_url() {
    let toml = "[log]\nurl = 'kafka://h:1?partitions=2'\n[log.parameters]\n'ssl.ca.location' = '/a&b'\n'linger.ms' = 0.5\ninsecure = true\nreplication = 3";
    let config = load(toml, &[]).unwrap();
    let url = "kafka://h:1?partitions=2&insecure=true&linger.ms=0.5&replication=3&ssl.ca.location=/a%26b";
    assert_eq!(config.log.url.as_deref(), Some(url));
    assert!(format!("{config:?}").contains("\"kafka://h:1?..\""), "{config:?}");
    let error = |toml| load(toml, &[]).unwrap_err();
    assert_eq!(
        error("[log.parameters]\npartitions = 3"),
        "setting log.parameters: there is no log.url that they could belong to"
    );
    assert_eq!(
        error("[log]\nurl = 'x:'\n[log.parameters]\nssl.ca.location = '/ca'"),
        "setting log.parameters: a name with dots that begins with \"ssl\" must be in quotes"
    );
    assert_eq!(
        error("[log]\nurl = 'x:'\n[log.parameters]\na = [1]"),
        "setting log.parameters: \"a\" must be a text, a number, true or false"
    );
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
    assert_eq!(error("[http]\nlisten = 'here'", &[]), "setting http.listen: invalid socket address syntax");
    assert!(error("[logs]\nlevel = 'loud'", &[]).starts_with("setting logs.level: unknown variant `loud`"));
    assert!(error("[log", &[]).starts_with("FILE is not TOML: "));
}

/// The published schema is that of the settings. Red when a setting is added, renamed or documented anew without it;
/// `AQUEDUCT_WRITE_SCHEMAS=1` in this test's environment writes it.
#[test]
fn the_schema_of_the_settings_is_the_published_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.schema.json");
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Config)).unwrap() + "\n";
    if std::env::var_os("AQUEDUCT_WRITE_SCHEMAS").is_some() {
        fs::write(path, &schema).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == schema, "docs/settings.schema.json is of other settings");
}
