//! The order in which candidates have their turns: another in each round, the same for the same seed.

/// What shuffles.
#[derive(Debug)]
pub struct Order {
    state: u64,
}

impl Order {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The numbers below `count`, shuffled.
    pub fn of(&mut self, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            numbers.swap(last, (self.random() % (last as u64 + 1)) as usize);
        }
        numbers
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
