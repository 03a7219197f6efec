//! What requests cost: the prices of AWS in us-east-1, which the README tells, too. Other stores cost nothing.

use crate::commit::Spent;

/// Dollars for a thousand blocks fetched.
const GETS: f64 = 0.003;
/// Dollars for a thousand blocks put.
const PUTS: f64 = 0.006;
/// Dollars for a thousand pages of listings.
const LISTINGS: f64 = 0.0006;

/// What `spent` costs in dollars in the store of that identity.
pub(super) fn dollars(store: &str, spent: &Spent) -> f64 {
    if !store.starts_with("aws:") {
        return 0.0;
    }
    thousands(spent.gets) * GETS
        + thousands(spent.puts) * PUTS
        + thousands(spent.listings) * LISTINGS
}

fn thousands(count: u64) -> f64 {
    // No volume has so many blocks.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / 1000.0
}

/// An amount as people read it.
pub(super) fn shown(dollars: f64) -> String {
    if dollars == 0.0 {
        return "no cost".to_owned();
    }
    format!("${dollars:.4}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aws_costs_something_and_by_its_price_list() {
        let spent = Spent {
            listings: 1000,
            gets: 2000,
            puts: 3000,
            others: 9,
        };
        let cost = dollars("aws:aws:us-east-1", &spent);
        assert_eq!(shown(cost), "$0.0246");
        assert_eq!(shown(dollars("http://127.0.0.1:8333", &spent)), "no cost");
        let readme = std::fs::read_to_string("README.md").unwrap();
        for price in [GETS, PUTS, LISTINGS] {
            assert!(readme.contains(&format!("${price}")), "{price}");
        }
    }
}
