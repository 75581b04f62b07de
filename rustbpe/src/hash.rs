//! Hashing of pieces. Most pieces are shorter than 16 bytes and are compared as two words instead of byte strings.

/// A piece of 1 to 15 bytes: its bytes, then zeros, and its length in the last byte. All zeros is no piece.
pub type ShortKey = [u64; 2];

pub const NO_KEY: ShortKey = [0, 0];
pub const MAX_SHORT: usize = 15;

/// The key of `bytes[start..end]`, which has 1 to 15 bytes. Reads 16 bytes at once where the buffer has them.
#[inline(always)]
pub fn short_key(bytes: &[u8], start: usize, end: usize) -> ShortKey {
    let len = end - start;
    let mut window = [0u8; 16];
    match bytes.get(start..start + 16) {
        Some(whole) => window.copy_from_slice(whole),
        None => window[..len].copy_from_slice(&bytes[start..end]),
    }
    let value = u128::from_le_bytes(window) & ((1u128 << (8 * len)) - 1);
    [value as u64, (value >> 64) as u64 | (len as u64) << 56]
}

/// The bytes of a short key and their number.
pub fn key_bytes(key: ShortKey) -> ([u8; 16], usize) {
    let value = (key[1] as u128) << 64 | key[0] as u128;
    (value.to_le_bytes(), (key[1] >> 56) as usize)
}

#[inline(always)]
pub fn hash_words(a: u64, b: u64) -> u64 {
    let product = (a ^ 0x9e37_79b9_7f4a_7c15) as u128 * (b ^ 0xd1b5_4a32_d192_ed03) as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
pub fn hash_key(key: ShortKey) -> u64 {
    hash_words(key[0], key[1])
}

pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut hash = bytes.len() as u64;
    for chunk in &mut chunks {
        hash = hash_words(hash, u64::from_le_bytes(chunk.try_into().unwrap()));
    }
    let mut tail = [0u8; 8];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    hash_words(hash, u64::from_le_bytes(tail))
}

/// Open-addressing map from a pair of ids to a number. It only grows.
pub struct PairMap {
    slots: Vec<(u64, u32)>,
    len: usize,
}

const EMPTY: u64 = u64::MAX; // no pair: ids stay below u32::MAX

/// Two ids as one number that sorts by the left id, then by the right one.
#[inline(always)]
pub fn pair(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

impl PairMap {
    pub fn new() -> PairMap {
        PairMap { slots: vec![(EMPTY, 0); 1 << 10], len: 0 }
    }

    #[inline(always)]
    pub fn get(&self, key: u64) -> Option<u32> {
        let (found, value) = self.slots[self.slot_of(key)];
        (found == key).then_some(value)
    }

    pub fn insert(&mut self, key: u64, value: u32) {
        if 2 * self.len >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![(EMPTY, 0); 2 * old.len()];
            for entry in old.into_iter().filter(|e| e.0 != EMPTY) {
                let slot = self.slot_of(entry.0);
                self.slots[slot] = entry;
            }
        }
        let slot = self.slot_of(key);
        self.len += usize::from(self.slots[slot].0 == EMPTY);
        self.slots[slot] = (key, value);
    }

    /// Where `key` is, or the empty slot where it belongs.
    #[inline(always)]
    fn slot_of(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash_words(key, 0) as usize & mask;
        while self.slots[slot].0 != key && self.slots[slot].0 != EMPTY {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_key_holds_its_bytes_wherever_it_is_read() {
        let text: Vec<u8> = (1..=40).collect();
        for start in 0..text.len() {
            for end in start + 1..text.len().min(start + MAX_SHORT) + 1 {
                let key = short_key(&text, start, end);
                let (bytes, len) = key_bytes(key);
                assert_eq!(&bytes[..len], &text[start..end]);
                assert_eq!(key, short_key(&text[start..end], 0, end - start));
            }
        }
        assert_ne!(short_key(b"a\0", 0, 1), short_key(b"a\0", 0, 2));
    }

    #[test]
    fn the_pair_map_keeps_every_pair_while_it_grows() {
        let mut map = PairMap::new();
        for i in 0..20_000u32 {
            map.insert(pair(i % 300, i), i);
        }
        map.insert(pair(0, 0), 7);
        assert_eq!(map.len, 20_000);
        assert_eq!(map.get(pair(0, 0)), Some(7));
        assert!((1..20_000u32).all(|i| map.get(pair(i % 300, i)) == Some(i)));
        assert_eq!(map.get(pair(1, 2)), None);
    }
}
