//! The command line.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, str::FromStr};

use clap::Parser;

/// Replays supermarket sales through two services that talk over a commit log.
#[derive(Debug, Clone, Parser)]
#[command(name = "shop", version)]
pub(crate) struct Options {
    /// Recorded sales as CSV, gzipped where the name ends in .gz; without it, four weeks that come with the shop.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// How many times faster than the tills it plays, or `max`.
    #[arg(long, value_name = "max|N", default_value = "3600")]
    pub(crate) speed: Speed,
    /// Where the log and the databases are kept; started again, the shop goes on from there.
    #[arg(long, value_name = "DIR", default_value = "shop-state")]
    pub(crate) state: PathBuf,
    /// The commit log; without it, `[log] url` of the settings, else `embedded:` in the state directory.
    #[arg(long, value_name = "URL")]
    pub(crate) log: Option<String>,
    /// Where both HTTP APIs listen, /inventory and /recommendation; without it, `[http] listen` of the settings,
    /// else 127.0.0.1:8080.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Settings as TOML.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// End when all sales were played and both services have caught up.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// With --until-end, write what came of it, as JSON.
    #[arg(long, value_name = "FILE", requires = "until_end")]
    pub(crate) report: Option<PathBuf>,
}

/// How fast sales are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    /// As fast as the log takes them.
    Max,
    /// So many times faster than they were recorded.
    Times(NonZeroU32),
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "max" => Ok(Self::Max),
            number => number.parse().map(Self::Times).map_err(|_| "say `max` or a whole number above 0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("60".parse(), Ok(Speed::Times(NonZeroU32::new(60).unwrap())));
        for bad in ["0", "-1", "fast", ""] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}
