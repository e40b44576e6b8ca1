//! Which statement is next.

use std::sync::{Mutex, PoisonError};

use super::plan::Weighted;

/// Each statement as often as its weight says, and as evenly as can be, whoever asks.
///
/// It is one for all connections: if each had its own, all would come to the rare statement at the
/// same time, and many that ask little never.
#[derive(Debug)]
pub(super) struct Choice {
    weights: Vec<i64>,
    /// What each has waited for.
    credit: Mutex<Vec<i64>>,
}

impl Choice {
    pub fn new(statements: &[Weighted]) -> Self {
        let weights: Vec<_> = statements.iter().map(|one| i64::from(one.weight)).collect();
        Self { credit: Mutex::new(vec![0; weights.len()]), weights }
    }

    pub fn next(&self) -> usize {
        if self.weights.len() < 2 {
            return 0;
        }
        let all: i64 = self.weights.iter().sum();
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        credit.iter_mut().zip(&self.weights).for_each(|(credit, weight)| *credit += weight);
        let most = credit.iter().enumerate().max_by_key(|(_, credit)| **credit);
        let next = most.map_or(0, |(index, _)| index);
        credit[next] -= all;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_come_as_often_as_their_weights_say() {
        let weighted = |weight| Weighted { weight, sql: String::new() };
        let choice = Choice::new(&[weighted(1), weighted(3), weighted(2)]);
        let chosen: Vec<_> = (0..600).map(|_| choice.next()).collect();
        let count = |which| chosen.iter().filter(|one| **one == which).count();
        assert_eq!([count(0), count(1), count(2)], [100, 300, 200]);
        assert_eq!(Choice::new(&[]).next(), 0);
    }
}
