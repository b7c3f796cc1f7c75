//! Bearer tokens: made at random, known by their hash.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

/// How many random bytes a token has: nobody guesses 256 bits.
const RANDOM_BYTES: usize = 32;
/// What our tokens begin with, so that a search for secrets finds one that was left somewhere.
const PREFIX: &str = "daybook_";
/// How long a token may be, in bytes: what fits in the header of a call beside everything else.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 32]);

/// Nobody has a use for it in a text.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is empty.
    #[error("a token must not be empty")]
    Empty,
    /// It is longer than any.
    #[error("a token must have at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It has something else than what tokens are made of (RFC 6750).
    #[error("a token has only letters, digits and - . _ ~ + / =")]
    Character,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl TokenHash {
    /// Of a token as it was presented.
    pub(super) fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// From 64 hexadecimal digits.
    pub(super) fn parse(hex: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(hex).ok()?;
        Some(Self(*hash.as_bytes()))
    }

    /// Whether it is the same, in a time that does not tell how far they agree.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A new token: 256 random bits as text.
///
/// # Errors
/// [`TokenError::NoRandom`] when the system has none.
pub fn new_token() -> Result<String, TokenError> {
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| TokenError::NoRandom)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// The hash by which the credentials file knows a token: 64 hexadecimal digits.
///
/// # Errors
/// [`TokenError`] when the text cannot be a token.
pub fn hash_of(token: &str) -> Result<String, TokenError> {
    check(token)?;
    Ok(blake3::Hash::from_bytes(TokenHash::of(token).0).to_hex().to_string())
}

/// That a text can be a token.
pub(super) fn check(token: &str) -> Result<(), TokenError> {
    let is_known = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    if token.is_empty() {
        Err(TokenError::Empty)
    } else if token.len() > TOKEN_BYTES_MAX {
        Err(TokenError::TooLong)
    } else if token.bytes().all(is_known) {
        Ok(())
    } else {
        Err(TokenError::Character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_sha_256() {
        // The example of the standard, FIPS 180-2.
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_of("abc").unwrap(), hex);
        let hash = TokenHash::parse(hex).unwrap();
        assert_eq!(TokenHash::parse(&hex.to_uppercase()), Some(hash));
        assert_eq!(format!("{hash:?}"), "TokenHash(…)");
        assert!(hash.is(&TokenHash::of("abc")) && !hash.is(&TokenHash::of("abd")));
        for wrong in ["", "ba", &hex[1..], &format!("{hex}0"), &hex.replace('b', "g")] {
            assert_eq!(TokenHash::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_bit_of_a_hash_counts() {
        let hash = TokenHash::of("abc");
        for bit in 0..256 {
            let mut other = hash;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!hash.is(&other), "bit {bit}");
        }
    }

    #[test]
    fn new_tokens_are_tokens_and_differ() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43, "256 bits in base64");
        assert_eq!((check(&one), check(&other)), (Ok(()), Ok(())));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (text, wrong) in [
            ("", TokenError::Empty),
            ("two words", TokenError::Character),
            ("line\n", TokenError::Character),
            ("ä", TokenError::Character),
            (&"x".repeat(TOKEN_BYTES_MAX + 1), TokenError::TooLong),
        ] {
            assert_eq!(hash_of(text), Err(wrong));
        }
        assert!(hash_of(&"x".repeat(TOKEN_BYTES_MAX)).is_ok());
    }
}
