//! The rules by which this service learns and advises. Pure functions.

use shop_events::{BasketId, Sku};

/// The rule `ten-of-a-basket`: pairs are counted among at most this many products of a basket.
///
/// Pairs grow with the square of a basket: all of them would be 19 million over the year's sales, among ten products
/// they are 2.9 million, of which the smaller baskets give every one.
const PAIRED: usize = 10;

/// The products of a basket whose pairs are counted, ascending.
///
/// Of a larger basket they are a sample drawn by a hash of basket and product. So a basket always gives the same
/// pairs, and no product is left out more often than another, as it would be by taking the first ten.
pub(crate) fn paired(basket: BasketId, products: impl Iterator<Item = Sku>) -> Vec<Sku> {
    let mut drawn: Vec<Sku> = products.collect();
    if drawn.len() > PAIRED {
        drawn.select_nth_unstable_by_key(PAIRED, |sku| mixed(basket.0 ^ mixed(sku.0.into())));
        drawn.truncate(PAIRED);
    }
    drawn.sort_unstable();
    drawn
}

/// SplitMix64's finalizer: every bit of the result depends on every bit of `x`, and different `x` stay different.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What customers wanted of a product in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) units: i64,
    pub(crate) first_day: i64,
    pub(crate) last_day: i64,
}

/// Units in a case.
const CASE: i64 = 6;
/// How long an order shall last, in days.
const LASTS: i64 = 14;
/// Fewer days than this say nothing about a rate: one large purchase would fill the store.
const SHORTEST_SPAN: i64 = 7;
/// No shelf takes more cases at once.
const MOST_CASES: i64 = 100;

/// The rule `two-weeks-of-demand`: what the shelf needs for fourteen days at the rate observed from its first purchase
/// to its last (taken as at least a week), in whole cases of six: one at least, a hundred at most.
pub(crate) fn restock_quantity(demand: Option<Demand>) -> u32 {
    let cases = demand.map_or(1, |demand| {
        let days = (demand.last_day.saturating_sub(demand.first_day).saturating_add(1)).max(SHORTEST_SPAN);
        let units = demand.units.saturating_mul(LASTS) / days;
        (units / CASE).saturating_add(i64::from(units % CASE > 0)).clamp(1, MOST_CASES)
    });
    // At most 600.
    u32::try_from(cases * CASE).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_basket_pairs_all_its_products() {
        let products = [9, 3, 5].map(Sku);
        assert_eq!(paired(BasketId(1), products.into_iter()), [3, 5, 9].map(Sku));
    }

    /// Red when the first ten are taken.
    #[test]
    fn a_large_basket_gives_every_product_the_same_chance() {
        let mut drawn = [0_u32; 40];
        for basket in 0..4_000 {
            let sample = paired(BasketId(basket), (0..40).map(Sku));
            assert_eq!(sample.len(), PAIRED);
            assert!(sample.is_sorted());
            assert_eq!(sample, paired(BasketId(basket), (0..40).rev().map(Sku)), "the same, in any order");
            sample.iter().for_each(|sku| drawn[usize::try_from(sku.0).unwrap()] += 1);
        }
        // 1,000 each, give or take five standard deviations.
        assert!(drawn.iter().all(|count| (863..=1_137).contains(count)), "{drawn:?}");
    }

    #[test]
    fn orders_two_weeks_of_demand_in_whole_cases() {
        let quantity =
            |units, first_day, last_day| restock_quantity(Some(Demand { units, first_day, last_day }));
        assert_eq!(quantity(28, 100, 127), 18, "one a day: 14 are three cases");
        assert_eq!(quantity(1, 100, 127), 6, "at least one case");
        assert_eq!(quantity(6, 100, 100), 12, "one day is taken as a week");
        assert_eq!(quantity(i64::MAX, 100, 100), 600, "at most a hundred cases");
        assert_eq!(quantity(6, 100, 90), 12, "clocks that run backwards");
        assert_eq!(restock_quantity(None), 6, "nothing observed yet");
    }
}
