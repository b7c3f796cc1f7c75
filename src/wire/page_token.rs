//! Page tokens: where to go on, bound to the list that gave them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::log::LogId;

/// How many bytes of the keyed hash a token carries: enough that none is forged by guessing, for
/// a forged one could at worst ask for what its bearer may read anyway.
const SEAL_BYTES: usize = 8;
/// How many numbers a token holds at most: the position, and one for each chain of sagas.
const NUMBERS_MAX: usize = 5;

/// What a token belongs to: the method and the filters of a list, in words of their own.
pub(super) struct List<'a> {
    pub(super) method: &'static str,
    pub(super) filters: &'a [&'a [u8]],
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The position that the list was true at: who goes on with it must know as much.
    pub(super) position: u64,
    /// Where to go on; none of an empty token.
    pub(super) numbers: Vec<u64>,
}

/// Makes and reads the tokens of one log.
#[derive(Clone)]
pub(super) struct PageTokens {
    key: [u8; 32],
}

impl PageTokens {
    /// The tokens of the log with this id: those of another log are foreign.
    pub(super) fn new(log_id: LogId) -> Self {
        Self { key: blake3::derive_key("daybook 2026 page tokens with positions", &log_id) }
    }

    /// The token that leads to `numbers` of a list that is true at `position`; empty for none.
    pub(super) fn make(&self, list: &List<'_>, position: u64, numbers: &[u64]) -> String {
        if numbers.is_empty() {
            return String::new();
        }
        let numbers = [position].into_iter().chain(numbers.iter().copied());
        let mut bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        bytes.extend_from_slice(&self.seal(list, &bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says: nothing if it is empty.
    pub(super) fn read(&self, list: &List<'_>, token: &str) -> Result<Place, &'static str> {
        const FOREIGN: &str = "must be the next_page_token of the same method and filters";
        if token.is_empty() {
            return Ok(Place::default());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| FOREIGN)?;
        let (numbers, seal) = bytes.split_last_chunk::<SEAL_BYTES>().ok_or(FOREIGN)?;
        let (numbers, rest) = numbers.as_chunks::<{ size_of::<u64>() }>();
        let plausible = rest.is_empty() && (2..=NUMBERS_MAX).contains(&numbers.len());
        if !plausible || *seal != self.seal(list, numbers.as_flattened()) {
            return Err(FOREIGN);
        }
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        let position = numbers.next().ok_or(FOREIGN)?;
        Ok(Place { position, numbers: numbers.collect() })
    }

    fn seal(&self, list: &List<'_>, numbers: &[u8]) -> [u8; SEAL_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [list.method.as_bytes()].iter().chain(list.filters).chain([&numbers]) {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_le_bytes());
            hasher.update(part);
        }
        let mut seal = [0; SEAL_BYTES];
        hasher.finalize_xof().fill(&mut seal);
        seal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: List<'static> = List { method: "ListThings", filters: &[b"a", b"bc"] };

    #[test]
    fn a_token_is_read_back_only_where_it_belongs() {
        let tokens = PageTokens::new([1; 16]);
        let token = tokens.make(&LIST, 9, &[7, u64::MAX]);
        let place = Place { position: 9, numbers: vec![7, u64::MAX] };
        assert_eq!(tokens.read(&LIST, &token), Ok(place));
        assert_eq!(tokens.read(&LIST, ""), Ok(Place::default()));
        assert_eq!(tokens.make(&LIST, 9, &[]), "");
        let others = [
            List { method: "ListOthers", filters: LIST.filters },
            List { method: LIST.method, filters: &[b"ab", b"c"] },
            List { method: LIST.method, filters: &[b"a"] },
        ];
        for other in others {
            assert!(tokens.read(&other, &token).is_err());
        }
        assert!(PageTokens::new([2; 16]).read(&LIST, &token).is_err());
    }

    #[test]
    fn a_changed_token_is_refused() {
        let tokens = PageTokens::new([1; 16]);
        let token = tokens.make(&LIST, 9, &[7]);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(tokens.read(&LIST, &URL_SAFE_NO_PAD.encode(changed)).is_err(), "bit {bit}");
        }
        for garbage in ["x", "%%%", "AAAA", &token[1..], &"A".repeat(4_000)] {
            assert!(tokens.read(&LIST, garbage).is_err(), "{garbage}");
        }
    }
}
