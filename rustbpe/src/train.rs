//! Merges, learnt from piece counts.
//!
//! All distinct pieces lie one after another in one array of cells, a cell per byte. A live token has its id in the
//! cell of its first and of its last byte, so both neighbours of a token are one lookup away, at any length.
//!
//! A pair of tokens can only appear in the step that makes the younger of the two. Its count and its positions are
//! complete after that step and only shrink later: each pair enters the heap once, with an upper bound.

use crate::counts::PieceCounts;
use crate::hash::{pair, PairMap};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

const WALL: u32 = u32::MAX; // the cell before and after every piece
const DEAD: u32 = u32::MAX - 1; // where a token started that is now inside a longer one

#[derive(Clone, Copy)]
struct Cell {
    id: u32,
    piece: u32,
}

struct Pair {
    key: u64,
    count: u64,
    positions: Vec<u32>, // cells where the left token starts, ascending within a piece; some are out of date
}

/// What one merge does to the pairs on one side, per neighbour.
#[derive(Clone, Copy, Default)]
struct Change {
    lost: u64,      // occurrences of the neighbour with the token that is merged away
    gained: u64,    // occurrences of the neighbour with the new token
    positions: u32, // how many were recorded for the new pair
    slot: u32,      // of the new pair
}

/// Changes on one side of a merge: a table indexed by neighbour, and which of its rows are in use.
struct Side {
    changes: Vec<Change>,
    touched: Vec<u32>,
    recorded: Vec<(u32, u32)>, // (neighbour, position)
}

impl Side {
    fn new(ids: usize) -> Side {
        Side { changes: vec![Change::default(); ids], touched: Vec::new(), recorded: Vec::new() }
    }

    /// `neighbour` stands beside the new token, `weight` times; the new pair starts at `position`.
    #[inline(always)]
    fn meet(&mut self, neighbour: u32, weight: u64, lost: u64, position: u32) {
        let change = &mut self.changes[neighbour as usize];
        if change.positions == 0 {
            self.touched.push(neighbour);
        }
        change.lost += lost;
        change.gained += weight;
        change.positions += 1;
        self.recorded.push((neighbour, position));
    }
}

struct Merger {
    cells: Vec<Cell>,
    weights: Vec<u64>, // occurrences of each piece
    lens: Vec<u32>,    // bytes of each token
    pairs: Vec<Pair>,
    slots: PairMap,                             // pair → place in `pairs`
    heap: BinaryHeap<(u64, Reverse<u64>, u32)>, // (count or more, key, place in `pairs`)
    left: Side,
    right: Side,
}

/// Learns up to `limit` merges: the most frequent pair first, the smaller (left, right) where counts are equal. Ids 0 to
/// 255 are the bytes and merge `i` makes id `256 + i`. No two tokens have the same bytes: a pair that would spell an
/// existing token is passed over. Returns fewer merges where the pieces hold no more pairs.
pub fn learn_merges(counts: &[PieceCounts], limit: usize) -> Result<Vec<(u32, u32)>, String> {
    let mut all = PieceCounts::new();
    counts.iter().for_each(|own| all.absorb(own));
    let mut merger = Merger::new(&all, limit)?;
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    let mut merges = Vec::new();
    while merges.len() < limit {
        let Some(place) = merger.pop() else { break };
        let (left, right) = ((merger.pairs[place].key >> 32) as u32, merger.pairs[place].key as u32);
        let bytes = [&tokens[left as usize][..], &tokens[right as usize][..]].concat();
        if !known.insert(bytes.clone()) {
            continue;
        }
        merger.merge(place, left, right, tokens.len() as u32);
        tokens.push(bytes);
        merges.push((left, right));
    }
    Ok(merges)
}

impl Merger {
    fn new(counts: &PieceCounts, limit: usize) -> Result<Merger, String> {
        let mut cells = vec![Cell { id: WALL, piece: 0 }];
        let mut weights = Vec::new();
        counts.for_each(|bytes, count| {
            if bytes.len() > 1 {
                let piece = weights.len() as u32;
                weights.push(count);
                cells.extend(bytes.iter().map(|&byte| Cell { id: byte as u32, piece }));
                cells.push(Cell { id: WALL, piece });
            }
        });
        if cells.len() >= DEAD as usize {
            return Err("the distinct pieces of the text exceed 4 GB; train on less text".into());
        }
        let ids = 256 + limit;
        let mut merger = Merger {
            cells,
            weights,
            lens: vec![1; 256],
            pairs: Vec::new(),
            slots: PairMap::new(),
            heap: BinaryHeap::new(),
            left: Side::new(ids),
            right: Side::new(ids),
        };
        merger.find_byte_pairs();
        Ok(merger)
    }

    fn find_byte_pairs(&mut self) {
        let mut found = vec![(0u64, 0usize); 1 << 16]; // (count, positions)
        let index = |left: u32, right: u32| (left << 8 | right) as usize;
        for two in self.cells.windows(2).filter(|two| two[0].id != WALL && two[1].id != WALL) {
            let entry = &mut found[index(two[0].id, two[1].id)];
            entry.0 += self.weights[two[0].piece as usize];
            entry.1 += 1;
        }
        let mut places = vec![0u32; 1 << 16];
        for (i, &(count, positions)) in found.iter().enumerate().filter(|(_, f)| f.1 > 0) {
            places[i] = self.add_pair(pair(i as u32 >> 8, i as u32 & 255), count, positions);
        }
        for position in 1..self.cells.len() - 1 {
            let (left, right) = (self.cells[position].id, self.cells[position + 1].id);
            if left != WALL && right != WALL {
                self.pairs[places[index(left, right)] as usize].positions.push(position as u32);
            }
        }
    }

    fn add_pair(&mut self, key: u64, count: u64, positions: usize) -> u32 {
        let place = self.pairs.len() as u32;
        self.pairs.push(Pair { key, count, positions: Vec::with_capacity(positions) });
        self.slots.insert(key, place);
        self.heap.push((count, Reverse(key), place));
        place
    }

    /// Takes the most frequent pair off the heap.
    fn pop(&mut self) -> Option<usize> {
        while let Some((bound, key, place)) = self.heap.pop() {
            let count = self.pairs[place as usize].count;
            if count == bound {
                return Some(place as usize);
            }
            if count > 0 {
                self.heap.push((count, key, place));
            }
        }
        None
    }

    /// Replaces every occurrence of the pair `(a, b)` by `new`, left to right, and keeps all counts exact.
    fn merge(&mut self, place: usize, a: u32, b: u32, new: u32) {
        let (a_len, b_len) = (self.lens[a as usize], self.lens[b as usize]);
        self.lens.push(a_len + b_len);
        for start in std::mem::take(&mut self.pairs[place].positions) {
            let middle = (start + a_len) as usize;
            let Cell { id, piece } = self.cells[start as usize];
            if id != a || self.cells[middle].id != b {
                continue;
            }
            let weight = self.weights[piece as usize];
            let end = middle + b_len as usize;
            let before = self.cells[start as usize - 1].id;
            if before == new {
                // Made a moment ago, when its right neighbour was still `a`.
                self.right.changes[a as usize].gained -= weight;
                self.left.meet(new, weight, 0, start - self.lens[new as usize]);
            } else if before != WALL {
                self.left.meet(before, weight, weight, start - self.lens[before as usize]);
            }
            let after = self.cells[end].id;
            if after != WALL {
                self.right.meet(after, weight, weight, start);
            }
            self.cells[middle].id = DEAD;
            self.cells[start as usize].id = new;
            self.cells[end - 1].id = new;
        }
        self.update_pairs(a, b, new);
    }

    fn update_pairs(&mut self, a: u32, b: u32, new: u32) {
        for is_left in [true, false] {
            let nothing = Side { changes: Vec::new(), touched: Vec::new(), recorded: Vec::new() };
            let mut side = std::mem::replace(if is_left { &mut self.left } else { &mut self.right }, nothing);
            for &neighbour in &side.touched {
                let change = &mut side.changes[neighbour as usize];
                let (old_key, new_key) = match is_left {
                    true => (pair(neighbour, a), pair(neighbour, new)),
                    false => (pair(b, neighbour), pair(new, neighbour)),
                };
                if change.lost > 0 {
                    let place = self.slots.get(old_key).expect("a pair that occurs is known") as usize;
                    self.pairs[place].count = self.pairs[place].count.saturating_sub(change.lost);
                }
                if change.gained > 0 {
                    change.slot = self.add_pair(new_key, change.gained, change.positions as usize);
                }
            }
            for &(neighbour, position) in &side.recorded {
                let change = side.changes[neighbour as usize];
                if change.gained > 0 {
                    self.pairs[change.slot as usize].positions.push(position);
                }
            }
            for neighbour in side.touched.drain(..) {
                side.changes[neighbour as usize] = Change::default();
            }
            side.recorded.clear();
            *if is_left { &mut self.left } else { &mut self.right } = side;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// The definition, word by word: count all pairs anew for every merge.
    fn learn_slowly(counts: &PieceCounts, limit: usize) -> Vec<(u32, u32)> {
        let mut words: Vec<(Vec<u32>, u64)> = Vec::new();
        counts.for_each(|bytes, n| words.push((bytes.iter().map(|&b| b as u32).collect(), n)));
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut merges = Vec::new();
        while merges.len() < limit {
            let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
            for (word, n) in &words {
                word.windows(2).for_each(|w| *pairs.entry((w[0], w[1])).or_default() += n);
            }
            let spelled = |p: &(u32, u32)| [&tokens[p.0 as usize][..], &tokens[p.1 as usize][..]].concat();
            pairs.retain(|p, _| !tokens.contains(&spelled(p)));
            let Some((&best, _)) = pairs.iter().max_by_key(|(&p, &n)| (n, Reverse(p))) else { break };
            for (word, _) in &mut words {
                let mut i = 0;
                while i + 1 < word.len() {
                    if (word[i], word[i + 1]) == best {
                        word.splice(i..i + 2, [tokens.len() as u32]);
                    }
                    i += 1;
                }
            }
            tokens.push(spelled(&best));
            merges.push(best);
        }
        merges
    }

    #[test]
    fn merges_are_those_of_the_definition() {
        let mut state = 1u64;
        for round in 0..60 {
            let letters = 2 + round % 4;
            let mut text = String::new();
            for _ in 0..400 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push(if state >> 60 == 0 { ' ' } else { (b'a' + (state >> 40) as u8 % letters) as char });
            }
            let mut counts = PieceCounts::new();
            counts.add_text(&text);
            let slowly = learn_slowly(&counts, 150);
            assert_eq!(learn_merges(&[counts], 150).unwrap(), slowly, "{text}");
        }
    }

    #[test]
    fn training_ends_where_no_pair_is_left() {
        let mut counts = PieceCounts::new();
        counts.add_text("abab");
        assert_eq!(learn_merges(&[counts], 10).unwrap(), [(97, 98), (256, 256)]);
        assert_eq!(learn_merges(&[], 10).unwrap(), []);
    }
}
