//! Splits text into pieces as this pattern does in the Python module `regex`; merges never cross a piece:
//!
//! ```text
//! '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
//! ```
//!
//! It is GPT-4's pattern with numbers cut into two digits instead of three. One pass, no backtracking: a run of
//! white space is looked at twice at most, so the time is linear in the text whatever the text is.

use crate::tables::{LETTERS, NUMBERS, SPACES};
use std::sync::OnceLock;

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3; // white space but for the two below
const NEWLINE: u8 = 4; // \r and \n
const MULTIBYTE: u8 = 5; // in `ascii` only: a byte of a longer character

/// U+017F, which matches `s` when case is ignored.
const LONG_S: &[u8] = "ſ".as_bytes();

pub struct Splitter {
    ascii: [u8; 256],
    by_code_point: Vec<u8>,
}

impl Splitter {
    /// The one splitter of the process.
    pub fn get() -> &'static Splitter {
        static SPLITTER: OnceLock<Splitter> = OnceLock::new();
        SPLITTER.get_or_init(Splitter::new)
    }

    fn new() -> Splitter {
        let mut by_code_point = vec![OTHER; 0x110000];
        for (ranges, class) in [(&LETTERS[..], LETTER), (&NUMBERS[..], NUMBER), (&SPACES[..], SPACE)] {
            for &(low, high) in ranges {
                by_code_point[low as usize..=high as usize].fill(class);
            }
        }
        by_code_point['\r' as usize] = NEWLINE;
        by_code_point['\n' as usize] = NEWLINE;
        let mut ascii = [MULTIBYTE; 256];
        ascii[..128].copy_from_slice(&by_code_point[..128]);
        Splitter { ascii, by_code_point }
    }

    /// End of the piece that starts at byte `start` of `text`; `start` is a character boundary before the end.
    #[inline]
    pub fn piece_end(&self, text: &str, start: usize) -> usize {
        let bytes = text.as_bytes();
        let (class, len) = self.class_at(bytes, start);
        let next = start + len;
        match class {
            LETTER => self.run_end(bytes, next, LETTER),
            NUMBER => match self.try_class_at(bytes, next) {
                Some((NUMBER, len)) => next + len,
                _ => next,
            },
            OTHER => {
                if bytes[start] == b'\'' {
                    if let Some(end) = contraction_end(bytes, next) {
                        return end;
                    }
                }
                match self.try_class_at(bytes, next) {
                    Some((LETTER, len)) => self.run_end(bytes, next + len, LETTER),
                    _ => self.symbols_end(bytes, next),
                }
            }
            SPACE => match self.try_class_at(bytes, next) {
                Some((LETTER, len)) => self.run_end(bytes, next + len, LETTER),
                Some((OTHER, len)) if bytes[start] == b' ' => self.symbols_end(bytes, next + len),
                _ => self.white_end(bytes, start),
            },
            _ => self.white_end(bytes, start),
        }
    }

    /// The first place at or after byte `from` where `text` may be cut without changing its pieces: after a letter or
    /// number and before white space. Returns the length of `text` where there is none.
    pub fn safe_cut(&self, text: &str, from: usize) -> usize {
        let bytes = text.as_bytes();
        let mut i = from;
        while i < bytes.len() && !text.is_char_boundary(i) {
            i += 1;
        }
        let mut in_word = false;
        while i < bytes.len() {
            let (class, len) = self.class_at(bytes, i);
            if in_word && (class == SPACE || class == NEWLINE) {
                return i;
            }
            in_word = class == LETTER || class == NUMBER;
            i += len;
        }
        bytes.len()
    }

    /// Class and length in bytes of the character at `i`.
    #[inline(always)]
    fn class_at(&self, bytes: &[u8], i: usize) -> (u8, usize) {
        match self.ascii[bytes[i] as usize] {
            MULTIBYTE => self.class_of_multibyte(bytes, i),
            class => (class, 1),
        }
    }

    #[inline(always)]
    fn try_class_at(&self, bytes: &[u8], i: usize) -> Option<(u8, usize)> {
        (i < bytes.len()).then(|| self.class_at(bytes, i))
    }

    fn class_of_multibyte(&self, bytes: &[u8], i: usize) -> (u8, usize) {
        let lead = bytes[i] as usize;
        let low = |k: usize| (bytes[i + k] & 0x3f) as usize;
        let (code_point, len) = if lead < 0xe0 {
            ((lead & 0x1f) << 6 | low(1), 2)
        } else if lead < 0xf0 {
            ((lead & 0x0f) << 12 | low(1) << 6 | low(2), 3)
        } else {
            ((lead & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4)
        };
        (self.by_code_point[code_point], len)
    }

    /// End of the run of `class` that goes on at `i`.
    #[inline(always)]
    fn run_end(&self, bytes: &[u8], mut i: usize, class: u8) -> usize {
        loop {
            while i < bytes.len() && self.ascii[bytes[i] as usize] == class {
                i += 1;
            }
            if i == bytes.len() || bytes[i] < 0x80 {
                return i;
            }
            match self.class_of_multibyte(bytes, i) {
                (c, len) if c == class => i += len,
                _ => return i,
            }
        }
    }

    /// End of `[^\s\p{L}\p{N}]*[\r\n]*` at `i`.
    fn symbols_end(&self, bytes: &[u8], i: usize) -> usize {
        let mut end = self.run_end(bytes, i, OTHER);
        while end < bytes.len() && matches!(bytes[end], b'\r' | b'\n') {
            end += 1;
        }
        end
    }

    /// End of `\s*[\r\n]|\s+(?!\S)|\s+` at `start`, which is white space.
    fn white_end(&self, bytes: &[u8], start: usize) -> usize {
        let (mut end, mut last, mut after_newline) = (start, start, start);
        while let Some((class @ (SPACE | NEWLINE), len)) = self.try_class_at(bytes, end) {
            last = end;
            end += len;
            if class == NEWLINE {
                after_newline = end;
            }
        }
        if after_newline > start {
            after_newline
        } else if end == bytes.len() || last == start {
            end
        } else {
            last // the last blank belongs to what follows
        }
    }
}

/// End of `(?i:[sdmt]|ll|ve|re)` at `i`, where it matches.
fn contraction_end(bytes: &[u8], i: usize) -> Option<usize> {
    let rest = &bytes[i..];
    let lower = |k: usize| rest.get(k).map_or(0, |b| b.to_ascii_lowercase());
    match (lower(0), lower(1)) {
        (b's' | b'd' | b'm' | b't', _) => Some(i + 1),
        (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => Some(i + 2),
        _ => rest.starts_with(LONG_S).then_some(i + LONG_S.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let (mut out, mut start) = (Vec::new(), 0);
        while start < text.len() {
            let end = Splitter::get().piece_end(text, start);
            out.push(&text[start..end]);
            start = end;
        }
        out
    }

    #[test]
    fn every_alternative_of_the_pattern() {
        assert_eq!(pieces("I'm he'LL'ſo it'so'x"), ["I", "'m", " he", "'LL", "'ſ", "o", " it", "'s", "o", "'x"]);
        assert_eq!(pieces("a12345 ½é"), ["a", "12", "34", "5", " ", "½", "é"]);
        assert_eq!(pieces("x = (y)\n\n  z"), ["x", " =", " (", "y", ")\n\n", " ", " z"]);
        assert_eq!(pieces("a  \n\t \r\n   b"), ["a", "  \n\t \r\n", "  ", " b"]);
        assert_eq!(pieces("end   "), ["end", "   "]);
        assert_eq!(pieces("\u{3000}語 !?"), ["\u{3000}語", " !?"]);
        assert_eq!(pieces("  !"), [" ", " !"]);
        assert_eq!(pieces("\t!"), ["\t", "!"]);
    }

    #[test]
    fn a_safe_cut_leaves_the_pieces_as_they_are() {
        let text = "one two\n\n!\n three é4  'tis\u{3000}x";
        for from in 0..=text.len() {
            let cut = Splitter::get().safe_cut(text, from);
            assert!(cut >= from);
            let mut halves = pieces(&text[..cut]);
            halves.extend(pieces(&text[cut..]));
            assert_eq!(halves, pieces(text), "cut at {cut}");
        }
    }
}
