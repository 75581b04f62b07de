//! The C ABI. No panic crosses it: a function that fails returns null or -1, and `rustbpe_last_error` says why.
//!
//! Documents are passed as UTF-8 `text` of `text_len` bytes and `documents + 1` ascending offsets into it, as Arrow keeps
//! them. The caller keeps every buffer alive and unchanged during the call. Any thread may call.

use crate::counts::{count_documents, PieceCounts};
use crate::encode::{Encoded, Encoder};
use crate::pattern::Splitter;
use crate::train::learn_merges;
use crate::vocabulary::Vocabulary;
use crate::work::{thread_count, Documents};
use std::cell::RefCell;
use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::Mutex;

/// Piece counts, one table per thread.
pub struct Trainer(Mutex<Vec<PieceCounts>>);

/// Ids of encoded documents, until they are copied out.
pub struct Ids {
    ids: Width,
    lens: Vec<usize>,
}

enum Width {
    U16(Vec<Vec<u16>>),
    U32(Vec<Vec<u32>>),
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `body`; an error or a panic is kept for `rustbpe_last_error` and becomes `failure`.
fn guarded<T>(failure: T, body: impl FnOnce() -> Result<T, String>) -> T {
    let message = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(message)) => message,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            format!("internal error: {}", text.unwrap_or("unknown"))
        }
    };
    LAST_ERROR.with(|last| *last.borrow_mut() = CString::new(message.replace('\0', " ")).unwrap_or_default());
    failure
}

/// `len` values at `data`, which may be null where `len` is 0.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        &[]
    } else {
        from_raw_parts(data, len)
    }
}

unsafe fn free<T>(object: *mut T) {
    guarded((), || {
        drop(Box::from_raw(object));
        Ok(())
    })
}

/// Why the last call of this thread failed. Valid until its next failure.
#[no_mangle]
pub extern "C" fn rustbpe_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// Ends of the pieces of `text`, in bytes, into `ends`, which has room for `text_len` of them. Returns their number.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_split(text: *const u8, text_len: usize, ends: *mut u64) -> i64 {
    guarded(-1, || {
        let text = std::str::from_utf8(slice(text, text_len)).map_err(|_| "the text is not valid UTF-8")?;
        let (mut number, mut start) = (0, 0);
        while start < text.len() {
            start = Splitter::get().piece_end(text, start);
            *ends.add(number) = start as u64;
            number += 1;
        }
        Ok(number as i64)
    })
}

/// A trainer without text. `threads` 0 is one per processor.
#[no_mangle]
pub extern "C" fn rustbpe_trainer_new(threads: u32) -> *mut Trainer {
    guarded(null_mut(), || {
        let tables = (0..thread_count(threads)).map(|_| PieceCounts::new()).collect();
        Ok(Box::into_raw(Box::new(Trainer(Mutex::new(tables)))))
    })
}

/// Counts the pieces of some documents. Returns 0. After a failure the trainer is only good for being freed.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_trainer_feed(
    trainer: *const Trainer,
    text: *const u8,
    text_len: usize,
    offsets: *const i64,
    documents: usize,
) -> i64 {
    guarded(-1, || {
        let documents = Documents::new(slice(text, text_len), slice(offsets, documents + 1))?;
        let mut tables = (*trainer).0.lock().map_err(|_| "the trainer failed before")?;
        count_documents(&mut tables, &documents).map(|()| 0)
    })
}

/// Learns up to `limit` merges into `left` and `right`, which have room for as many. Returns their number.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_trainer_learn(trainer: *const Trainer, limit: usize, left: *mut u32, right: *mut u32) -> i64 {
    guarded(-1, || {
        let tables = (*trainer).0.lock().map_err(|_| "the trainer failed before")?;
        let merges = learn_merges(&tables, limit)?;
        for (i, &merge) in merges.iter().enumerate() {
            (*left.add(i), *right.add(i)) = merge;
        }
        Ok(merges.len() as i64)
    })
}

/// # Safety
/// `trainer` is not used again.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_trainer_free(trainer: *mut Trainer) {
    free(trainer)
}

/// An encoder for the vocabulary whose token `i` is `bytes[offsets[i]..offsets[i + 1]]`; ids are ranks.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_encoder_new(bytes: *const u8, bytes_len: usize, offsets: *const i64, tokens: usize) -> *mut Encoder {
    guarded(null_mut(), || {
        let (bytes, offsets) = (slice(bytes, bytes_len), slice(offsets, tokens + 1));
        let token = |two: &[i64]| bytes.get(two[0] as usize..two[1] as usize).ok_or("the offsets do not ascend within the bytes");
        let tokens = offsets.windows(2).map(token).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::into_raw(Box::new(Encoder::new(Vocabulary::new(&tokens)?))))
    })
}

/// # Safety
/// `encoder` is not used again.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_encoder_free(encoder: *mut Encoder) {
    free(encoder)
}

/// Ids of one text into `ids`, which has room for `text_len` of them. Returns their number.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_encode_text(encoder: *const Encoder, text: *const u8, text_len: usize, ids: *mut u32) -> i64 {
    guarded(-1, || {
        let text = std::str::from_utf8(slice(text, text_len)).map_err(|_| "the text is not valid UTF-8")?;
        let mut out: Vec<u32> = Vec::with_capacity(text_len / 2);
        (*encoder).encode_text(text, &mut out);
        from_raw_parts_mut(ids, out.len()).copy_from_slice(&out);
        Ok(out.len() as i64)
    })
}

/// Ids of documents, `id_bytes` (2 or 4) bytes each, as an object to copy from. `bos` -1: none is put before a document.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_encode(
    encoder: *const Encoder,
    text: *const u8,
    text_len: usize,
    offsets: *const i64,
    documents: usize,
    bos: i64,
    id_bytes: u32,
    threads: u32,
) -> *mut Ids {
    guarded(null_mut(), || {
        let documents = Documents::new(slice(text, text_len), slice(offsets, documents + 1))?;
        let bos = u32::try_from(bos).ok();
        let (encoder, threads) = (&*encoder, thread_count(threads));
        let (ids, lens) = if id_bytes == 2 {
            let Encoded { units, lens } = encoder.encode_documents::<u16>(&documents, bos, threads)?;
            (Width::U16(units), lens)
        } else {
            let Encoded { units, lens } = encoder.encode_documents::<u32>(&documents, bos, threads)?;
            (Width::U32(units), lens)
        };
        Ok(Box::into_raw(Box::new(Ids { ids, lens })))
    })
}

/// The number of ids.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_ids_len(ids: *const Ids) -> i64 {
    guarded(-1, || Ok((*ids).lens.iter().sum::<usize>() as i64))
}

/// Copies the ids to `out` and where each document starts to `offsets`, which has room for `documents + 1`. Returns 0.
///
/// # Safety
/// See the head of this file.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_ids_copy(ids: *const Ids, out: *mut u8, offsets: *mut i64) -> i64 {
    unsafe fn copy<T: Copy>(units: &[Vec<T>], mut out: *mut T) {
        for unit in units {
            out.copy_from_nonoverlapping(unit.as_ptr(), unit.len());
            out = out.add(unit.len());
        }
    }
    guarded(-1, || {
        match &(*ids).ids {
            Width::U16(units) => copy(units, out.cast()),
            Width::U32(units) => copy(units, out.cast()),
        }
        let mut position = 0;
        *offsets = 0;
        for (i, len) in (*ids).lens.iter().enumerate() {
            position += *len as i64;
            *offsets.add(i + 1) = position;
        }
        Ok(0)
    })
}

/// # Safety
/// `ids` is not used again.
#[no_mangle]
pub unsafe extern "C" fn rustbpe_ids_free(ids: *mut Ids) {
    free(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(guarded(-1, || panic!("number {}", 7)), -1);
        let message = unsafe { CStr::from_ptr(rustbpe_last_error()) }.to_str().unwrap();
        assert_eq!(message, "internal error: number 7");
        assert_eq!(guarded(-1, || Ok(3)), 3);
    }
}
