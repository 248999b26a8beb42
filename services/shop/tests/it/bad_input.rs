//! P12: what cannot be used is refused at once, with a message that says what to do; no panic, no backtrace.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::Command,
};

use aqueduct::rusqlite::Connection;

use crate::support::{Folder, HEADER, Running, SOON, bare_shop};

const ONE: &str = "7,330,9,2017-01-01T11:53:26Z,1,1,50\n";

/// What is on standard error when the shop refuses, with the folder as PATH; nothing else stands there.
fn refusal(folder: &Folder, shop: &mut Command, code: i32) -> String {
    let mut messages = Vec::new();
    for backtrace in [Some("0"), None] {
        match backtrace {
            Some(value) => shop.env("RUST_BACKTRACE", value),
            None => shop.env_remove("RUST_BACKTRACE"),
        };
        let ended = Running::start(shop).end(SOON);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
        for leak in ["panicked", "backtrace", ".rs:"] {
            assert!(!ended.stderr.contains(leak), "{}", ended.stderr);
        }
        messages.push(ended.stderr.trim_end().replace(&folder.text(""), "PATH/"));
    }
    assert_eq!(messages[0], messages[1]);
    messages.remove(0)
}

fn refused(args: &[&str]) -> String {
    let folder = Folder::new();
    refusal(&folder, &mut folder.shop(args), 1)
}

/// Red when `check` in the app's configuration returns `Ok` at once.
#[test]
fn settings() {
    let folder = Folder::new();
    let misspelt = folder.write("misspelt.toml", "[drain]\ndedline_ms = 1\n");
    assert_eq!(
        refusal(&folder, &mut folder.shop(&["--config", &misspelt]), 1),
        "Error: unknown setting drain.dedline_ms in PATH/misspelt.toml; did you mean drain.deadline_ms?"
    );
    assert_eq!(
        refusal(&folder, folder.shop(&[]).env("AQUEDUCT_LOG_URI", "memory:"), 1),
        "Error: unknown setting AQUEDUCT_LOG_URI in the environment; did you mean AQUEDUCT_LOG_URL?"
    );
    assert_eq!(
        refusal(&folder, folder.shop(&[]).env("AQUEDUCT_LOG_URL", OsStr::from_bytes(b"\xff")), 1),
        "Error: setting AQUEDUCT_LOG_URL: it is not UTF-8: \"\\xFF\""
    );
    let elsewhere = folder.write("elsewhere.toml", "[subscriptions.inventry]\nconcurrency = 1\n");
    assert_eq!(
        refusal(&folder, &mut folder.shop(&["--config", &elsewhere]), 1),
        "Error: the settings name subscription inventry, app inventory has inventory"
    );
}

/// Red when `connect` takes what it does not know for a path.
#[test]
fn log_urls() {
    for (url, message) in [
        (
            "embedded:log.db?partition=4",
            "\"embedded:log.db?..\": unknown parameter \"partition\", did you mean \"partitions\"?",
        ),
        ("embedded:log.db?partitions=0", "partitions must be from 1 to 1024, not 0"),
        ("embedded:", "the embedded log has no path: expected embedded:PATH"),
        ("memory:?partitions=4", "\"memory:?..\" is not a log: expected memory:"),
    ] {
        assert_eq!(refused(&["--log", url]), format!("Error: {message}"));
    }
    // Which logs it has goes by the build, and what cargo builds with it.
    let unknown = |logs| format!("Error: the log URL's scheme \"redis\" is not known; this build has {logs}");
    let message = refused(&["--log", "redis://localhost"]);
    if message != unknown("embedded:PATH and kafka://HOST:PORT and memory:") {
        assert_eq!(message, unknown("embedded:PATH and memory:"));
        assert_eq!(
            refused(&["--log", "kafka://localhost:9092"]),
            "Error: the log URL's scheme \"kafka\" needs the feature \"kafka\" of the crate aqueduct; this build has embedded:PATH and memory:"
        );
    }
}

/// Red when the listener is bound after the log was opened, or without the address in its error.
#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    let state = folder.text("state");
    let message = refusal(&folder, bare_shop().args(["--state", &state, "--listen", &address]), 1);
    assert_eq!(
        message.replace(&address, "ADDRESS"),
        "Error: --listen ADDRESS: cannot listen there\n\nCaused by:\n    Address already in use (os error 98)"
    );
    assert!(!folder.path("state/log.db").exists());
}

/// Red when `Sales::open` does not compare the columns.
#[test]
fn data_files() {
    let folder = Folder::new();
    let columns = r#"["basket_id", "store_id", "household_id", "timestamp", "product_id", "quantity", "sales_value_cents"]"#;
    for (name, content, message) in [
        ("text.csv", &b"to whom it may concern\n"[..], format!("PATH/text.csv has the columns [\"to whom it may concern\"], not {columns}")),
        ("empty.csv", b"", format!("PATH/empty.csv has the columns [], not {columns}")),
        (
            "binary.csv",
            b"\xff\xfe\x00",
            "PATH/binary.csv, row 0: CSV parse error: record 0 (line 1, field: 0, byte: 0): invalid utf-8: invalid UTF-8 in field 0 near byte index 0".to_owned(),
        ),
        ("text.csv.gz", b"to whom it may concern\n", "PATH/text.csv.gz, row 0: invalid gzip header".to_owned()),
    ] {
        let data = folder.write(name, content);
        assert_eq!(refusal(&folder, &mut folder.shop(&["--data", &data]), 1), format!("Error: {message}"));
    }
    let missing = folder.text("nowhere.csv");
    let message = refusal(&folder, &mut folder.shop(&["--data", &missing]), 1);
    assert!(
        message.starts_with(
            "Error: cannot read the sales in PATH/nowhere.csv: No such file or directory (os error 2)"
        ),
        "{message}"
    );
    // Nothing was made for sales that cannot be played.
    assert!(!folder.path("state").exists());
}

/// A bad row is met while the shop runs: then it ends in order, and says which.
#[test]
fn a_bad_row() {
    let folder = Folder::new();
    let data = folder.write("row.csv", format!("{HEADER}{ONE}8,331,9,2017-01-02T11:53:26Z,1,x,50\n"));
    let ended = Running::start(&mut folder.shop(&["--data", &data, "--speed", "max"])).end(SOON);
    let stderr = ended.stderr.replace(&folder.text(""), "PATH/");
    assert_eq!(stderr.lines().last(), Some("Error: PATH/row.csv, row 3: quantity is \"x\""), "{stderr}");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
}

/// Red when a format or an application id is not looked at.
#[test]
fn files_that_are_not_ours_to_open() {
    let folder = Folder::new();
    let other = Connection::open(folder.path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE t (x); PRAGMA application_id = 7").unwrap();
    other.close().unwrap();
    let url = format!("embedded:{}", folder.text("other.db"));
    assert_eq!(
        refusal(&folder, &mut folder.shop(&["--log", &url]), 1),
        "Error: PATH/other.db is a database of another program (application_id 0x7), not an embedded log"
    );

    let data = folder.write("one.csv", format!("{HEADER}{ONE}"));
    folder.play(&data);
    let change = |file: &str, sql: &str| {
        let file = Connection::open(folder.path(file)).unwrap();
        file.execute_batch(sql).unwrap();
        file.close().unwrap();
    };
    change("state/recommendation.db", "UPDATE aqueduct_format SET format = 99");
    assert_eq!(
        refusal(&folder, &mut folder.shop(&[]), 1),
        "Error: PATH/state/recommendation.db: its tables have format 99, this program knows up to 1: deploy the newer code first"
    );
    change("state/recommendation.db", "UPDATE aqueduct_format SET format = 1");
    for left in ["state/inventory.db-wal", "state/inventory.db-shm"] {
        // A log of the old file is none of the new one.
        if folder.path(left).exists() {
            fs::remove_file(folder.path(left)).unwrap();
        }
    }
    fs::copy(folder.path("other.db"), folder.path("state/inventory.db")).unwrap();
    assert_eq!(
        refusal(&folder, &mut folder.shop(&[]), 1),
        "Error: PATH/state/inventory.db: is the file of another program (application_id 0x7, a service database has 0x41715376)"
    );
    change("state/log.db", "PRAGMA user_version = 99");
    assert_eq!(
        refusal(&folder, &mut folder.shop(&[]), 1),
        "Error: PATH/state/log.db has format version 99, this program knows versions up to 2: deploy the newer program"
    );
    // The log looks at the mode, which holds for root too.
    fs::set_permissions(folder.path("state/log.db"), fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(
        refusal(&folder, &mut folder.shop(&[]), 1),
        "Error: PATH/state/log.db is read-only: the log must be writable"
    );
}

#[test]
fn arguments() {
    let folder = Folder::new();
    let file = folder.write("file", "");
    let state = format!("{file}/state");
    assert_eq!(
        refusal(&folder, bare_shop().args(["--state", &state]), 1),
        "Error: --state PATH/file/state\n\nCaused by:\n    Not a directory (os error 20)"
    );
    assert_eq!(
        refusal(&folder, &mut folder.shop(&["--report", "report.json"]), 2),
        "error: the following required arguments were not provided:\n  --until-end\n\n\
         Usage: shop --until-end --state <DIR> --listen <ADDR> --report <FILE>\n\n\
         For more information, try '--help'."
    );
    assert_eq!(
        refusal(&folder, &mut folder.shop(&["--speed", "fast"]), 2),
        "error: invalid value 'fast' for '--speed <max|N>': say `max` or a whole number above 0\n\n\
         For more information, try '--help'."
    );
}
