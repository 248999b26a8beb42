//! Bugs on purpose: the breaks that the rules prevent, each of which some test must catch (`cargo xtask bugs`).
//!
//! For tests alone. The feature `planted` is turned on by that command and by nothing else; without it [`planted`] is
//! `false` at compile time, so that nothing of a bug is in a real build.

/// Whether the bug of this name is planted: the one that `AQUEDUCT_PLANTED` names in the environment.
#[cfg(feature = "planted")]
#[must_use]
pub fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var_os("AQUEDUCT_PLANTED"));
    chosen.as_deref().is_some_and(|chosen| chosen == name)
}

/// Whether the bug of this name is planted: never, in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}
