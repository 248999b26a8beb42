//! A median and how sure it is.

use serde::Serialize;

use crate::random::Random;

const RESAMPLES: usize = 4_000;

/// A median with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Estimate {
    /// Of these values; the seed is fixed, so the same values give the same interval.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut random = Random::new(7);
        let count = u64::try_from(values.len()).unwrap_or(u64::MAX);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let pick =
                    |_| usize::try_from(random.below(count)).ok().and_then(|at| values.get(at)).copied();
                median(&(0..values.len()).filter_map(pick).collect::<Vec<_>>())
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: usize| medians.get(RESAMPLES * share / 1_000).copied().unwrap_or(f64::NAN);
        Self { median: median(values), low: at(25), high: at(975) }
    }
}

/// The middle value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(middle)) => *middle,
        _ => f64::NAN,
    }
}

/// From the smallest to the largest, as a share of the median.
#[must_use]
pub fn spread(values: &[f64]) -> f64 {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    (high - low) / median(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the interval is taken from the values in place of their medians.
    #[test]
    fn the_interval_holds_the_median_and_is_narrower_than_the_values() {
        let values: Vec<f64> = (0..21).map(f64::from).collect();
        let estimate = Estimate::of(&values);
        assert!((estimate.median - 10.0).abs() < f64::EPSILON);
        assert!(estimate.low > 2.0 && estimate.low < 10.0, "{estimate:?}");
        assert!(estimate.high < 18.0 && estimate.high > 10.0, "{estimate:?}");
    }
}
