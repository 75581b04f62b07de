//! A vocabulary, and how it turns one piece into ids, exactly as tiktoken does it: a piece that is a token is that token;
//! else the pair that spells the token with the smallest id is merged, the leftmost first, until no pair spells a token.

use crate::hash::{hash_key, pair, short_key, PairMap, ShortKey, MAX_SHORT, NO_KEY};
use std::collections::{BTreeSet, HashMap};

const NO_TOKEN: u32 = u32::MAX;
const SCAN_LIMIT: usize = 512; // bytes up to which looking for the best pair among all is fastest

/// Tokens by their bytes and by the pairs that spell them.
pub struct Vocabulary {
    byte_ids: [u32; 256],
    short: Vec<(ShortKey, u32)>,
    long: HashMap<Vec<u8>, u32>,
    tokens: usize,
    merged: PairMap, // every pair of tokens that spells a token → that token
}

/// Where a piece is worked on and the result is left, reused from piece to piece.
#[derive(Default)]
pub struct Scratch {
    pub ids: Vec<u32>,
    ranks: Vec<u32>,
}

impl Vocabulary {
    /// `tokens[id]` are the bytes of token `id`. All are distinct and the 256 single bytes are among them.
    pub fn new(tokens: &[&[u8]]) -> Result<Vocabulary, String> {
        let mut vocabulary = Vocabulary {
            byte_ids: [NO_TOKEN; 256],
            short: vec![(NO_KEY, NO_TOKEN); (4 * tokens.len()).next_power_of_two()],
            long: HashMap::new(),
            tokens: tokens.len(),
            merged: PairMap::new(),
        };
        for (id, token) in tokens.iter().enumerate() {
            if token.is_empty() || vocabulary.token(token, 0, token.len()).is_some() {
                return Err(format!("token {id} is empty or a repetition"));
            }
            vocabulary.add_token(token, id as u32);
        }
        if let Some(byte) = vocabulary.byte_ids.iter().position(|&id| id == NO_TOKEN) {
            return Err(format!("no token for byte {byte}"));
        }
        let lens: BTreeSet<usize> = tokens.iter().map(|token| token.len()).collect();
        for (id, token) in tokens.iter().enumerate() {
            for &cut in lens.range(..token.len()).filter(|&cut| lens.contains(&(token.len() - cut))) {
                if let (Some(left), Some(right)) = (vocabulary.token(token, 0, cut), vocabulary.token(token, cut, token.len())) {
                    vocabulary.merged.insert(pair(left, right), id as u32);
                }
            }
        }
        Ok(vocabulary)
    }

    fn add_token(&mut self, token: &[u8], id: u32) {
        if let [byte] = token {
            self.byte_ids[*byte as usize] = id;
        }
        if token.len() <= MAX_SHORT {
            let key = short_key(token, 0, token.len());
            let slot = self.slot_of(key);
            self.short[slot] = (key, id);
        } else {
            self.long.insert(token.to_vec(), id);
        }
    }

    /// The token that is `bytes[start..end]`, if there is one.
    fn token(&self, bytes: &[u8], start: usize, end: usize) -> Option<u32> {
        if end - start > MAX_SHORT {
            return self.long.get(&bytes[start..end]).copied();
        }
        let id = self.short[self.slot_of(short_key(bytes, start, end))].1;
        (id != NO_TOKEN).then_some(id)
    }

    fn slot_of(&self, key: ShortKey) -> usize {
        let mask = self.short.len() - 1;
        let mut slot = hash_key(key) as usize & mask;
        while self.short[slot].0 != key && self.short[slot].0 != NO_KEY {
            slot = (slot + 1) & mask;
        }
        slot
    }
    /// Sets `scratch.ids` to the ids of the piece `bytes[start..end]`.
    pub fn encode_piece(&self, bytes: &[u8], start: usize, end: usize, scratch: &mut Scratch) {
        scratch.ids.clear();
        if let Some(id) = self.token(bytes, start, end) {
            scratch.ids.push(id);
            return;
        }
        scratch.ids.extend(bytes[start..end].iter().map(|&byte| self.byte_ids[byte as usize]));
        if end - start <= SCAN_LIMIT {
            self.merge_by_scanning(&mut scratch.ids, &mut scratch.ranks);
        } else {
            self.merge_by_rank(&mut scratch.ids);
        }
    }

    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.merged.get(pair(left, right)).unwrap_or(NO_TOKEN)
    }

    /// Quadratic in the number of ids and fast for few: `ranks[i]` is what `ids[i]` and `ids[i + 1]` merge to.
    fn merge_by_scanning(&self, ids: &mut Vec<u32>, ranks: &mut Vec<u32>) {
        ranks.clear();
        ranks.extend(ids.windows(2).map(|two| self.rank(two[0], two[1])));
        while let Some(best) = ranks.iter().copied().min().filter(|&rank| rank != NO_TOKEN) {
            let at = ranks.iter().position(|&rank| rank == best).expect("the smallest is there");
            ids[at] = best;
            ids.remove(at + 1);
            ranks.remove(at);
            if at < ranks.len() {
                ranks[at] = self.rank(best, ids[at + 1]);
            }
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], best);
            }
        }
    }

    /// The same for pieces of any length: all places of one rank are merged in one sweep from left to right, rank after
    /// rank. Time grows with the number of ids, apart from sorting places that come in a few ascending runs.
    fn merge_by_rank(&self, ids: &mut Vec<u32>) {
        let mut list = LinkedIds::new(std::mem::take(ids));
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); self.tokens];
        let mut ranks = vec![NO_TOKEN; list.ids.len()]; // what the id at a place and the next one merge to
        for at in 0..list.ids.len() - 1 {
            ranks[at] = self.rank(list.ids[at], list.ids[at + 1]);
            if ranks[at] != NO_TOKEN {
                places[ranks[at] as usize].push(at as u32);
            }
        }
        let mut rank = 0;
        while rank < places.len() {
            let mut sweep = std::mem::take(&mut places[rank]);
            sweep.sort(); // stable, because that sort is the one that makes use of ascending runs
            let mut lowest = rank + 1;
            for (i, &at) in sweep.iter().enumerate() {
                if ranks[at as usize] != rank as u32 {
                    continue; // one of the two was merged with its other neighbour
                }
                ranks[list.after[at as usize] as usize] = NO_TOKEN;
                let (before, after) = list.join(at, rank as u32);
                ranks[at as usize] = NO_TOKEN;
                for (left, right) in [(before, Some(at)), (Some(at), after)] {
                    if let (Some(left), Some(right)) = (left, right) {
                        let new = self.rank(list.ids[left as usize], list.ids[right as usize]);
                        ranks[left as usize] = new;
                        if new != NO_TOKEN {
                            places[new as usize].push(left);
                            lowest = lowest.min(new as usize);
                        }
                    }
                }
                if lowest <= rank {
                    places[rank].extend(&sweep[i + 1..]); // a smaller token has become possible and goes first
                    break;
                }
            }
            rank = lowest;
        }
        *ids = list.ids;
        ids.retain(|&id| id != NO_TOKEN);
    }
}

/// Ids that keep their place when neighbours are joined; the right one of the two is then `NO_TOKEN`.
struct LinkedIds {
    ids: Vec<u32>,
    before: Vec<u32>, // place of the neighbour; `NO_TOKEN` where there is none
    after: Vec<u32>,
}

impl LinkedIds {
    fn new(ids: Vec<u32>) -> LinkedIds {
        let len = u32::try_from(ids.len()).expect("a piece is shorter than 4 GB");
        let before = (0..len).map(|i| i.wrapping_sub(1)).collect();
        let after = (1..len).chain([NO_TOKEN]).collect();
        LinkedIds { ids, before, after }
    }

    /// Joins the id at `at` with the next one to `id`. Returns the places of the neighbours.
    #[inline(always)]
    fn join(&mut self, at: u32, id: u32) -> (Option<u32>, Option<u32>) {
        let gone = self.after[at as usize] as usize;
        let after = self.after[gone];
        self.ids[at as usize] = id;
        self.ids[gone] = NO_TOKEN;
        self.after[at as usize] = after;
        if after != NO_TOKEN {
            self.before[after as usize] = at;
        }
        let place = |at: u32| (at != NO_TOKEN).then_some(at);
        (place(self.before[at as usize]), place(after))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::counts::PieceCounts;
    use crate::train::learn_merges;

    /// A vocabulary learnt from `text`, and the bytes of its tokens.
    pub fn learnt(text: &str, merges: usize) -> (Vocabulary, Vec<Vec<u8>>) {
        let mut counts = PieceCounts::new();
        counts.add_text(text);
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        for (left, right) in learn_merges(&[counts], merges).unwrap() {
            tokens.push([&tokens[left as usize][..], &tokens[right as usize][..]].concat());
        }
        (build(&tokens).unwrap(), tokens)
    }

    fn build(tokens: &[Vec<u8>]) -> Result<Vocabulary, String> {
        Vocabulary::new(&tokens.iter().map(|t| &t[..]).collect::<Vec<_>>())
    }

    #[test]
    fn both_ways_to_merge_agree_and_the_ids_spell_the_text() {
        let text = "abracadabra simsalabim abba aaaaaaa  lalalalala ".repeat(20);
        let (vocabulary, tokens) = learnt(&text, 60);
        let mut state = 7u64;
        for len in 2..300 {
            let piece: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    b"abrlm"[(state >> 33) as usize % 5]
                })
                .collect();
            let bytes: Vec<u32> = piece.iter().map(|&b| b as u32).collect();
            let (mut scanned, mut swept) = (bytes.clone(), bytes);
            vocabulary.merge_by_scanning(&mut scanned, &mut Vec::new());
            vocabulary.merge_by_rank(&mut swept);
            assert_eq!(scanned, swept);
            assert_eq!(scanned.iter().flat_map(|&id| tokens[id as usize].clone()).collect::<Vec<u8>>(), piece);
        }
    }

    #[test]
    fn a_vocabulary_with_gaps_or_repetitions_is_refused() {
        let all: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let refused = |tokens: &[Vec<u8>]| build(tokens).err().unwrap();
        assert!(refused(&all[1..]).contains("byte 0"));
        assert!(refused(&[all.clone(), vec![b"a".to_vec()]].concat()).contains("token 256"));
        assert!(refused(&[all, vec![vec![]]].concat()).contains("token 256"));
    }
}
