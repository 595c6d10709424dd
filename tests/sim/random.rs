//! Chance, replayable: SplitMix64.

/// A stream of numbers decided by its seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Whether something of so many in a thousand happens.
    pub fn permille(&mut self, chance: u32) -> bool {
        self.next() % 1000 < u64::from(chance)
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }

    /// How many of `available` move now: mostly all, often a few, sometimes one.
    pub fn portion(&mut self, available: usize) -> usize {
        match self.below(4) {
            0 => 1.min(available),
            1 => self.below(available + 1),
            _ => available,
        }
    }
}
