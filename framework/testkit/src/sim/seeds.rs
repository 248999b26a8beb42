//! Many seeds.

use super::{case::Case, plan::Plan, run::run, world::Summary};

/// Runs a case for each seed; `AQUEDUCT_SEED=7` in the environment runs that seed alone. The summary is of all runs.
///
/// # Panics
/// A run failed: the message has the seed, every option that it derived, and the command that runs it again.
pub fn simulate<S: Clone + Send + Sync + 'static>(
    seeds: impl IntoIterator<Item = u64>,
    case: impl Fn(&Plan) -> Case<S>,
) -> Summary {
    let only = std::env::var("AQUEDUCT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = only.map_or_else(|| seeds.into_iter().collect(), |seed| vec![seed]);
    let mut summary = Summary::default();
    for seed in seeds {
        let plan = Plan::new(seed);
        match run(&plan, &case(&plan)) {
            Ok(world) => summary.add(world.summary().clone()),
            Err(failure) => panic!(
                "the simulation failed: {failure}\nrun this seed alone: AQUEDUCT_SEED={seed} cargo test --release {}",
                std::thread::current().name().unwrap_or_default()
            ),
        }
    }
    summary
}
