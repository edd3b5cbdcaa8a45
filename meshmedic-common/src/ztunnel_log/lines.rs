// SPDX-License-Identifier: Apache-2.0
//! A stream of bytes, cut into lines in bounded memory.

/// Longer than any line that matters (access lines take below 2 KiB), and what container runtimes write at once.
pub const LINE_LIMIT: usize = 16 * 1024;

/// Cuts a stream into lines. What exceeds [`LINE_LIMIT`] is dropped and counted.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    skipping: bool,
    overlong: u64,
}

impl Lines {
    /// Takes the next bytes, and hands over each line that ends in them, without its end.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (piece, tail) = bytes.split_at(end);
            bytes = &tail[1..];
            if self.line.is_empty() && !self.skipping && piece.len() <= LINE_LIMIT {
                take(piece);
                continue;
            }
            self.keep(piece);
            self.end_line(&mut take);
        }
        self.keep(bytes);
    }

    /// Says that the stream ended here; a last line without its end counts as a line.
    pub fn finish(&mut self, mut take: impl FnMut(&[u8])) {
        if !self.line.is_empty() || self.skipping {
            self.end_line(&mut take);
        }
    }

    /// How many lines were too long to be read.
    #[must_use]
    pub fn overlong(&self) -> u64 {
        self.overlong
    }

    fn end_line(&mut self, take: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.skipping) {
            self.overlong = self.overlong.saturating_add(1);
        } else {
            take(&self.line);
        }
        self.line.clear();
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping || self.line.len() + piece.len() > LINE_LIMIT {
            self.skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.line.capacity()
    }
}
