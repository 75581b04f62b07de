//! Documents as one buffer with offsets, cut into units of work that threads take one after another.

use crate::pattern::Splitter;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const UNIT_BYTES: usize = 1 << 18;

/// Texts one after another: document `i` is `bytes[offsets[i]..offsets[i + 1]]`.
pub struct Documents<'a> {
    bytes: &'a [u8],
    offsets: &'a [i64],
}

/// Whole documents, or a part of a long one that starts and ends at a piece boundary.
pub struct Unit {
    documents: Range<usize>,
    bytes: Range<usize>,
}

/// What a unit holds of one document.
pub struct Part<'a> {
    pub document: usize,
    pub is_start: bool,
    pub text: &'a str,
}

impl<'a> Documents<'a> {
    /// Checks that the offsets ascend within `bytes`. Whether the text is UTF-8 shows when it is worked on.
    pub fn new(bytes: &'a [u8], offsets: &'a [i64]) -> Result<Documents<'a>, String> {
        let (first, last) = match (offsets.first(), offsets.last()) {
            (Some(&first), Some(&last)) => (first, last),
            _ => return Err("there are no offsets".into()),
        };
        if first < 0 || offsets.windows(2).any(|w| w[0] > w[1]) || last as usize > bytes.len() {
            return Err("the offsets do not ascend within the text".into());
        }
        Ok(Documents { bytes, offsets })
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Units of about `unit_bytes` bytes. Only a document of more than twice that size is cut.
    fn units(&self, unit_bytes: usize) -> Result<Vec<Unit>, String> {
        let mut units = Vec::new();
        let mut first = 0;
        for document in 0..self.len() {
            let range = self.range(document);
            if range.len() > 2 * unit_bytes {
                if first < document {
                    units.push(self.whole(first..document));
                }
                self.cut(document, unit_bytes, &mut units)?;
                first = document + 1;
            } else if range.end - self.range(first).start >= unit_bytes {
                units.push(self.whole(first..document + 1));
                first = document + 1;
            }
        }
        if first < self.len() {
            units.push(self.whole(first..self.len()));
        }
        Ok(units)
    }

    fn cut(&self, document: usize, unit_bytes: usize, units: &mut Vec<Unit>) -> Result<(), String> {
        let range = self.range(document);
        let text = std::str::from_utf8(&self.bytes[range.clone()]).map_err(|_| not_utf8(document))?;
        let mut start = 0;
        while start < text.len() {
            let end = Splitter::get().safe_cut(text, (start + unit_bytes).min(text.len()));
            units.push(Unit { documents: document..document + 1, bytes: range.start + start..range.start + end });
            start = end;
        }
        Ok(())
    }

    fn whole(&self, documents: Range<usize>) -> Unit {
        let bytes = self.range(documents.start).start..self.range(documents.end - 1).end;
        Unit { documents, bytes }
    }

    fn range(&self, document: usize) -> Range<usize> {
        self.offsets[document] as usize..self.offsets[document + 1] as usize
    }

    /// What `unit` holds, document by document.
    fn parts(&self, unit: &Unit) -> Result<Vec<Part<'a>>, String> {
        let part = |document: usize| {
            let range = self.range(document);
            let (start, end) = (range.start.max(unit.bytes.start), range.end.min(unit.bytes.end));
            let text = std::str::from_utf8(&self.bytes[start..end]).map_err(|_| not_utf8(document))?;
            Ok(Part { document, is_start: start == range.start, text })
        };
        unit.documents.clone().map(part).collect()
    }
}

fn not_utf8(document: usize) -> String {
    format!("document {document} of the batch is not valid UTF-8")
}

/// Gives every unit of `documents` to `work`, with its number, on as many threads as there are `states`; each thread
/// works on a state of its own. Returns the first error in a unit; a panic in `work` goes on in the caller.
pub fn run_units<S: Send>(documents: &Documents, states: &mut [S], work: impl Fn(&mut S, usize, Vec<Part>) + Sync) -> Result<(), String> {
    let units = documents.units(UNIT_BYTES)?;
    let next = AtomicUsize::new(0);
    let take_all = |state: &mut S| -> Result<(), String> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            match units.get(i) {
                Some(unit) => work(state, i, documents.parts(unit)?),
                None => return Ok(()),
            }
        }
    };
    let (own, others) = states.split_first_mut().expect("one state at least");
    let busy = others.len().min(units.len().saturating_sub(1));
    thread::scope(|scope| {
        let threads: Vec<_> = others[..busy].iter_mut().map(|state| scope.spawn(|| take_all(state))).collect();
        let mut result = take_all(own);
        for thread in threads {
            let other = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(other);
        }
        result
    })
}

/// The number of threads that `requested` stands for: 0 is one per processor.
pub fn thread_count(requested: u32) -> usize {
    match requested {
        0 => thread::available_parallelism().map_or(1, |n| n.get()),
        n => n as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_every_byte_and_document_once_and_in_order() {
        let text = "ab cd é ".repeat(200);
        let len = text.len() as i64;
        let offsets = [0, 0, 9, 9, 9, 900, 900, len, len];
        let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
        for unit_bytes in [1, 10, 100, 400, 5000] {
            let units = documents.units(unit_bytes).unwrap();
            let parts: Vec<Part> = units.iter().flat_map(|u| documents.parts(u).unwrap()).collect();
            assert_eq!(parts.iter().map(|p| p.text).collect::<String>(), text);
            let starts: Vec<usize> = parts.iter().filter(|p| p.is_start).map(|p| p.document).collect();
            assert_eq!(starts, (0..documents.len()).collect::<Vec<_>>());
        }
        assert!(documents.units(10).unwrap().len() > 50);
    }

    #[test]
    fn what_is_not_utf8_is_an_error_that_names_the_document() {
        let bytes = [b'a', 0xc3, 0xa9, 0xff];
        for offsets in [&[0, 2, 3][..], &[0, 1, 4][..]] {
            let documents = Documents::new(&bytes, offsets).unwrap();
            let error = run_units(&documents, &mut [(), ()], |_, _, _| ()).unwrap_err();
            assert!(error.contains("document") && error.contains("UTF-8"), "{error}");
        }
        assert!(Documents::new(&bytes, &[0, 3, 2]).is_err());
        assert!(Documents::new(&bytes, &[0, 5]).is_err());
        assert!(Documents::new(&bytes, &[-1, 2]).is_err());
        assert!(Documents::new(&bytes, &[]).is_err());
    }
}
