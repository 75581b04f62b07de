//! Encodes texts on many threads, each with a cache of the pieces it met last.

use crate::hash::{hash_key, short_key, ShortKey, MAX_SHORT, NO_KEY};
use crate::pattern::Splitter;
use crate::vocabulary::{Scratch, Vocabulary};
use crate::work::{run_units, Documents, Part};
use std::sync::Mutex;

const CACHE_BITS: u32 = 14;
const CACHED_IDS: usize = 5;

/// A vocabulary and the memory of the threads that encode with it.
pub struct Encoder {
    vocabulary: Vocabulary,
    idle: Mutex<Vec<Worker>>,
}

/// The memory of one thread.
struct Worker {
    cache: Vec<Cached>, // by the upper bits of the hash; a newer piece takes the place of an older one
    scratch: Scratch,
}

#[derive(Clone, Copy)]
struct Cached {
    key: ShortKey,
    len: u32,
    ids: [u32; CACHED_IDS],
}

/// A unit of work that is encoded.
struct Done<T> {
    unit: usize,
    ids: Vec<T>,
    lens: Vec<(usize, usize)>, // (document, number of ids)
}

/// `u16` or `u32`, the type of ids in the output.
pub trait Id: Copy + Send + 'static {
    fn new(id: u32) -> Self;
}

impl Id for u16 {
    #[inline(always)]
    fn new(id: u32) -> u16 {
        id as u16
    }
}

impl Id for u32 {
    #[inline(always)]
    fn new(id: u32) -> u32 {
        id
    }
}

/// Encoded documents: ids of the units of work in order, and how many ids each document has.
pub struct Encoded<T> {
    pub units: Vec<Vec<T>>,
    pub lens: Vec<usize>,
}

impl Encoder {
    pub fn new(vocabulary: Vocabulary) -> Encoder {
        Encoder { vocabulary, idle: Mutex::new(Vec::new()) }
    }

    /// Ids of `documents` on up to `threads` threads; each document starts with `bos` where there is one.
    pub fn encode_documents<T: Id>(&self, documents: &Documents, bos: Option<u32>, threads: usize) -> Result<Encoded<T>, String> {
        struct State<T> {
            worker: Worker,
            ids: Vec<T>,
            done: Vec<Done<T>>,
        }
        let state = || State { worker: self.take_worker(), ids: Vec::new(), done: Vec::new() };
        let mut states: Vec<State<T>> = (0..threads).map(|_| state()).collect();
        let result = run_units(documents, &mut states, |state, unit, parts: Vec<Part>| {
            state.ids.clear();
            let mut lens = Vec::with_capacity(parts.len());
            for part in parts {
                let before = state.ids.len();
                if part.is_start {
                    state.ids.extend(bos.map(T::new));
                }
                self.encode(part.text, &mut state.worker, &mut state.ids);
                lens.push((part.document, state.ids.len() - before));
            }
            state.done.push(Done { unit, ids: state.ids.clone(), lens });
        });
        let mut done = Vec::new();
        for state in states {
            self.idle.lock().unwrap().push(state.worker);
            done.extend(state.done);
        }
        result?;
        done.sort_unstable_by_key(|done| done.unit);
        let mut encoded = Encoded { units: Vec::with_capacity(done.len()), lens: vec![0; documents.len()] };
        for Done { ids, lens, .. } in done {
            encoded.units.push(ids);
            lens.into_iter().for_each(|(document, len)| encoded.lens[document] += len);
        }
        Ok(encoded)
    }

    /// Appends the ids of one text to `out`, on this thread.
    pub fn encode_text<T: Id>(&self, text: &str, out: &mut Vec<T>) {
        let mut worker = self.take_worker();
        self.encode(text, &mut worker, out);
        self.idle.lock().unwrap().push(worker);
    }

    fn take_worker(&self) -> Worker {
        self.idle.lock().unwrap().pop().unwrap_or_else(|| Worker {
            cache: vec![Cached { key: NO_KEY, len: 0, ids: [0; CACHED_IDS] }; 1 << CACHE_BITS],
            scratch: Scratch::default(),
        })
    }

    fn encode<T: Id>(&self, text: &str, worker: &mut Worker, out: &mut Vec<T>) {
        let (bytes, splitter) = (text.as_bytes(), Splitter::get());
        let Worker { cache, scratch } = worker;
        let mut start = 0;
        while start < bytes.len() {
            let end = splitter.piece_end(text, start);
            if end - start > MAX_SHORT {
                self.vocabulary.encode_piece(bytes, start, end, scratch);
                out.extend(scratch.ids.iter().map(|&id| T::new(id)));
            } else {
                let key = short_key(bytes, start, end);
                let cached = &mut cache[(hash_key(key) >> (64 - CACHE_BITS)) as usize];
                if cached.key == key {
                    out.extend(cached.ids[..cached.len as usize].iter().map(|&id| T::new(id)));
                } else {
                    self.vocabulary.encode_piece(bytes, start, end, scratch);
                    out.extend(scratch.ids.iter().map(|&id| T::new(id)));
                    if let Some(ids) = cached.ids.get_mut(..scratch.ids.len()) {
                        ids.copy_from_slice(&scratch.ids);
                        (cached.key, cached.len) = (key, scratch.ids.len() as u32);
                    }
                }
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::learnt;

    #[test]
    fn documents_are_encoded_in_order_whatever_the_number_of_threads() {
        let text = "Some words, 123 numbers\n\n and é accents 'll do. ".repeat(40_000);
        let encoder = Encoder::new(learnt(&text[..5000], 100).0);
        let offsets = [0, 0, 10, text.len() as i64 - 50, text.len() as i64];
        let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
        let mut expected: Vec<u32> = Vec::new();
        for two in offsets.windows(2) {
            expected.push(999);
            encoder.encode_text(&text[two[0] as usize..two[1] as usize], &mut expected);
        }
        for threads in [1, 2, 5] {
            let encoded = encoder.encode_documents::<u32>(&documents, Some(999), threads).unwrap();
            assert_eq!(encoded.units.concat(), expected);
            assert_eq!(encoded.lens.iter().sum::<usize>(), expected.len());
            assert_eq!(encoded.lens[0], 1);
        }
    }
}
