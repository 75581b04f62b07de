//! Byte-level BPE: parallel training and bulk encoding, for Python through a C ABI (`ffi.rs`).

mod counts;
mod encode;
mod ffi;
mod hash;
mod pattern;
mod tables;
mod train;
mod vocabulary;
mod work;

pub use ffi::*;
