//! What the file system must be like, and the lock files beside the database.

use std::{
    ffi::OsString,
    fs::{File, Metadata, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use aqueduct_core::{LogError, LogErrorKind};

use crate::options::configuration;

/// `f_type` of statfs(2) where locks and shared memory do not hold between machines.
const NETWORK: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// A database file that may be opened: its path without links, and its identity.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) identity: (u64, u64),
}

/// Checks the path, and makes an empty file there unless one exists.
pub(crate) fn place(path: &Path) -> Result<Place, LogError> {
    let name = path.file_name().ok_or_else(|| configuration(format!("{} names no file", path.display())))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = parent.canonicalize().map_err(|error| {
        LogError::with_source(
            LogErrorKind::Configuration,
            format!("the directory of {} cannot be used", path.display()),
            error,
        )
    })?;
    refuse_network(path, &parent)?;
    let file = parent.join(name);
    match OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unreachable(path, error)),
    }
    // By path, never by a handle of ours: closing one would drop the locks that SQLite holds for this process.
    let path = file.canonicalize().map_err(|error| unreachable(path, error))?;
    if let Some(parent) = path.parent() {
        refuse_network(&path, parent)?;
    }
    let metadata = path.metadata().map_err(|error| unreachable(&path, error))?;
    check_file(&path, &metadata)?;
    Ok(Place { identity: (metadata.dev(), metadata.ino()), path })
}

fn check_file(path: &Path, metadata: &Metadata) -> Result<(), LogError> {
    if !metadata.is_file() {
        return Err(configuration(format!("{} is not a regular file", path.display())));
    }
    if metadata.nlink() > 1 {
        return Err(configuration(format!(
            "{} has {} hard links: its write-ahead log goes by one name only",
            path.display(),
            metadata.nlink()
        )));
    }
    if metadata.permissions().readonly() {
        return Err(LogError::new(
            LogErrorKind::Unreachable,
            format!("{} is read-only: the log must be writable", path.display()),
        ));
    }
    Ok(())
}

fn refuse_network(path: &Path, directory: &Path) -> Result<(), LogError> {
    let statfs = rustix::fs::statfs(directory).map_err(|error| unreachable(path, error.into()))?;
    // The magic is 32 bits whatever the field's width is.
    let magic = u32::try_from(i128::from(statfs.f_type) & 0xffff_ffff).unwrap_or(0);
    match NETWORK.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, system)) => Err(configuration(format!(
            "{} is on {system}, a network or user-space file system, where SQLite's write-ahead log is not safe: \
             use a local disk",
            path.display()
        ))),
    }
}

pub(crate) fn unreachable(path: &Path, error: io::Error) -> LogError {
    LogError::with_source(LogErrorKind::Unreachable, format!("{} cannot be opened", path.display()), error)
}

/// The name of a file beside the database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes the names of the files beside the database durable, so that a power failure cannot take one with what it holds.
pub(crate) fn sync_directory(path: &Path) -> Result<(), LogError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| {
        LogError::with_source(
            LogErrorKind::Storage,
            format!("{}: its directory could not be synced", path.display()),
            error,
        )
    })
}

/// Opens or makes a file that is locked, never truncated.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Takes the lock unless another process holds it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Says in the lock file who holds it.
pub(crate) fn write_pid(file: &File) -> io::Result<()> {
    file.write_all_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0)
}

/// Who holds a lock file, as its holder wrote it.
pub(crate) fn holder(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "an unknown process".to_owned(),
    }
}
