//! How often each distinct piece occurs, counted on several threads.

use crate::hash::{hash_bytes, hash_key, key_bytes, short_key, ShortKey, MAX_SHORT, NO_KEY};
use crate::pattern::Splitter;
use crate::work::{run_units, Documents};

#[derive(Clone, Copy)]
struct Short {
    key: ShortKey,
    count: u64, // occurrences of this piece
}

#[derive(Clone, Copy)]
struct Long {
    hash: u64,
    start: usize, // in `long_bytes`
    len: usize,
    count: u64, // 0: an empty slot
}

/// Distinct pieces with their counts: two open-addressing tables, for pieces of up to 15 bytes and for longer ones.
pub struct PieceCounts {
    short: Vec<Short>,
    short_len: usize,
    long: Vec<Long>,
    long_len: usize,
    long_bytes: Vec<u8>,
}

impl PieceCounts {
    pub fn new() -> PieceCounts {
        PieceCounts {
            short: vec![Short { key: NO_KEY, count: 0 }; 1 << 12],
            short_len: 0,
            long: vec![Long { hash: 0, start: 0, len: 0, count: 0 }; 1 << 8],
            long_len: 0,
            long_bytes: Vec::new(),
        }
    }

    /// Counts the pieces of `text`.
    pub fn add_text(&mut self, text: &str) {
        let (bytes, splitter) = (text.as_bytes(), Splitter::get());
        let mut start = 0;
        while start < bytes.len() {
            let end = splitter.piece_end(text, start);
            if end - start <= MAX_SHORT {
                self.add_short(short_key(bytes, start, end), 1);
            } else {
                self.add_long(&bytes[start..end], 1);
            }
            start = end;
        }
    }

    /// Adds the counts of `other` to these.
    pub fn absorb(&mut self, other: &PieceCounts) {
        for entry in other.short.iter().filter(|e| e.key != NO_KEY) {
            self.add_short(entry.key, entry.count);
        }
        for entry in other.long.iter().filter(|e| e.count > 0) {
            self.add_long(&other.long_bytes[entry.start..entry.start + entry.len], entry.count);
        }
    }

    /// Calls `visit` with each distinct piece and its count.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], u64)) {
        for entry in self.short.iter().filter(|e| e.key != NO_KEY) {
            let (bytes, len) = key_bytes(entry.key);
            visit(&bytes[..len], entry.count);
        }
        for entry in self.long.iter().filter(|e| e.count > 0) {
            visit(&self.long_bytes[entry.start..entry.start + entry.len], entry.count);
        }
    }

    #[inline(always)]
    fn add_short(&mut self, key: ShortKey, count: u64) {
        let slot = short_slot(&self.short, key);
        let entry = &mut self.short[slot];
        entry.count += count;
        if entry.key == NO_KEY {
            entry.key = key;
            self.short_len += 1;
            if 2 * self.short_len > self.short.len() {
                self.grow_short();
            }
        }
    }

    #[cold]
    fn grow_short(&mut self) {
        let mut grown = vec![Short { key: NO_KEY, count: 0 }; 2 * self.short.len()];
        for entry in self.short.iter().filter(|e| e.key != NO_KEY) {
            let slot = short_slot(&grown, entry.key);
            grown[slot] = *entry;
        }
        self.short = grown;
    }

    fn add_long(&mut self, piece: &[u8], count: u64) {
        let hash = hash_bytes(piece);
        let slot = long_slot(&self.long, hash, |e| &self.long_bytes[e.start..e.start + e.len] == piece);
        let entry = &mut self.long[slot];
        if entry.count > 0 {
            entry.count += count;
            return;
        }
        *entry = Long { hash, start: self.long_bytes.len(), len: piece.len(), count };
        self.long_bytes.extend_from_slice(piece);
        self.long_len += 1;
        if 2 * self.long_len > self.long.len() {
            let mut grown = vec![Long { hash: 0, start: 0, len: 0, count: 0 }; 2 * self.long.len()];
            for entry in self.long.iter().filter(|e| e.count > 0) {
                let slot = long_slot(&grown, entry.hash, |_| false);
                grown[slot] = *entry;
            }
            self.long = grown;
        }
    }
}

/// Where `key` is, or the empty slot where it belongs.
#[inline(always)]
fn short_slot(table: &[Short], key: ShortKey) -> usize {
    let mask = table.len() - 1;
    let mut slot = hash_key(key) as usize & mask;
    while table[slot].key != key && table[slot].key != NO_KEY {
        slot = (slot + 1) & mask;
    }
    slot
}

fn long_slot(table: &[Long], hash: u64, same: impl Fn(&Long) -> bool) -> usize {
    let mask = table.len() - 1;
    let mut slot = hash as usize & mask;
    while table[slot].count > 0 && !(table[slot].hash == hash && same(&table[slot])) {
        slot = (slot + 1) & mask;
    }
    slot
}

/// Adds the pieces of `documents` to `counts`, one table per thread.
pub fn count_documents(counts: &mut [PieceCounts], documents: &Documents) -> Result<(), String> {
    run_units(documents, counts, |own, _, parts| parts.iter().for_each(|part| own.add_text(part.text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn threads_and_growth_lose_no_piece() {
        let text: String = (0..30_000).map(|i| format!("w{} {}", "x".repeat(i % 40), i % 977)).collect();
        let offsets = [0, 7, 7, text.len() as i64];
        let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
        let mut expected = PieceCounts::new();
        expected.add_text(&text[..7]);
        expected.add_text(&text[7..]);
        let mut parts: Vec<PieceCounts> = (0..3).map(|_| PieceCounts::new()).collect();
        count_documents(&mut parts, &documents).unwrap();
        let mut sum = PieceCounts::new();
        parts.iter().for_each(|p| sum.absorb(p));
        let as_map = |c: &PieceCounts| {
            let mut map = HashMap::new();
            c.for_each(|piece, n| assert!(map.insert(piece.to_vec(), n).is_none()));
            map
        };
        let map = as_map(&sum);
        assert_eq!(map, as_map(&expected));
        assert_eq!(map.iter().map(|(piece, n)| piece.len() as u64 * n).sum::<u64>(), text.len() as u64);
    }
}
