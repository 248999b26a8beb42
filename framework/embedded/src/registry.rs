//! The instances of this process, by file: a file has one owner, however often it is opened.

use std::sync::{Arc, Mutex, Weak};

use aqueduct_core::LogError;

use crate::{
    file::Place,
    options::{EmbeddedOptions, configuration},
    shared::{Handle, Shared, lock},
};

static OPEN: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// Gives the instance of a file, or makes it. One at a time: two openers of one file must not both make it.
/// The value beside the handle is there when it was made.
pub(crate) fn open<T>(
    place: &Place,
    options: &EmbeddedOptions,
    make: impl FnOnce() -> Result<(Arc<Handle>, T), LogError>,
) -> Result<(Arc<Handle>, Option<T>), LogError> {
    let mut open = lock(&OPEN);
    open.retain(|handle| handle.strong_count() > 0);
    let found = open
        .iter()
        .filter_map(Weak::upgrade)
        .find(|handle| handle.shared.place.identity == place.identity && handle.shared.check().is_ok())
        .filter(|_| !options.apart);
    if let Some(handle) = found {
        let with = &handle.shared.options;
        if !with.agree(options) {
            return Err(configuration(format!(
                "{} is open in this process with {with}, not {options}",
                place.path.display()
            )));
        }
        return Ok((handle, None));
    }
    let (handle, made) = make()?;
    if !options.apart {
        open.push(Arc::downgrade(&handle));
    }
    Ok((handle, Some(made)))
}

/// Forgets an instance that has given its file back.
pub(crate) fn forget(shared: &Arc<Shared>) {
    let mut open = lock(&OPEN);
    open.retain(|handle| handle.upgrade().is_some_and(|handle| !Arc::ptr_eq(&handle.shared, shared)));
}
