// SPDX-License-Identifier: Apache-2.0
//! `SplitMix64`: the same numbers from the same seed, everywhere and for ever.

#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to `most`, both included.
    pub(super) const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// An index below `len`, which is not 0.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).unwrap_or_default()
    }

    /// True so many times in a thousand.
    pub(super) const fn chance(&mut self, thousandths: u64) -> bool {
        self.next() % 1000 < thousandths
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}
