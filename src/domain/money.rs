//! Money: whole minor units, bounded, and never computed with unchecked.

use std::fmt;

/// The largest amount and the largest balance, in minor units: 10^15. Far above any account, and
/// far enough below the range of `i64` that a sum of thousands of balances cannot overflow.
pub const AMOUNT_MAX_MINOR: i64 = 1_000_000_000_000_000;

/// How much money a command moves, in minor units: 1 to [`AMOUNT_MAX_MINOR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i64);

impl Amount {
    /// An amount; `None` outside its range.
    #[must_use]
    pub const fn new(minor: i64) -> Option<Self> {
        if minor >= 1 && minor <= AMOUNT_MAX_MINOR { Some(Self(minor)) } else { None }
    }

    /// In minor units.
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.0
    }
}

/// What an account holds, in minor units: 0 to [`AMOUNT_MAX_MINOR`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Balance(i64);

impl Balance {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// A balance; `None` outside its range.
    #[must_use]
    pub const fn new(minor: i64) -> Option<Self> {
        if minor >= 0 && minor <= AMOUNT_MAX_MINOR { Some(Self(minor)) } else { None }
    }

    /// In minor units.
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.0
    }

    /// The balance with `amount` more; `None` above the limit.
    #[must_use]
    pub fn plus(self, amount: Amount) -> Option<Self> {
        self.0.checked_add(amount.0).and_then(Self::new)
    }

    /// The balance with `amount` less; `None` below 0.
    #[must_use]
    pub fn minus(self, amount: Amount) -> Option<Self> {
        self.0.checked_sub(amount.0).and_then(Self::new)
    }
}

/// How many letters a currency code may have.
const CURRENCY_LETTERS: std::ops::RangeInclusive<usize> = 3..=10;
/// How many bits hold one letter of a packed currency code.
const LETTER_BITS: u32 = 5;

/// The bits of the last letter.
const LETTER_MASK: u64 = (1 << LETTER_BITS) - 1;

/// A currency: 3 to 10 upper-case letters, packed into one word (5 bits a letter, first letter
/// highest), because every account carries one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CurrencyCode(u64);

impl CurrencyCode {
    /// The currency of those who name none.
    pub const USD: Self = Self((21 << 10) | (19 << 5) | 4);

    /// Reads a code; `None` when it is not 3 to 10 upper-case letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !CURRENCY_LETTERS.contains(&text.len()) {
            return None;
        }
        let pack = |packed: u64, letter: u8| match letter {
            b'A'..=b'Z' => Some((packed << LETTER_BITS) | (u64::from(letter) & LETTER_MASK)),
            _ => None,
        };
        text.bytes().try_fold(0, pack).map(Self)
    }

    /// The code as one word, for storage.
    #[must_use]
    pub const fn packed(self) -> u64 {
        self.0
    }

    /// Takes a stored word; `None` when [`CurrencyCode::packed`] never gives it.
    #[must_use]
    pub fn from_packed(packed: u64) -> Option<Self> {
        let mut rest = packed;
        let mut letters = 0_usize;
        while rest != 0 {
            if !(1..=26).contains(&(rest & LETTER_MASK)) {
                return None;
            }
            rest >>= LETTER_BITS;
            letters = letters.saturating_add(1);
        }
        CURRENCY_LETTERS.contains(&letters).then_some(Self(packed))
    }
}

impl fmt::Display for CurrencyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shifts = (0..u64::BITS / LETTER_BITS).rev().map(|place| place.saturating_mul(5));
        for letter in
            shifts.map(|shift| (self.0 >> shift) & LETTER_MASK).skip_while(|letter| *letter == 0)
        {
            let offset = u8::try_from(letter).unwrap_or(0x1f);
            write!(f, "{}", char::from(b'@' | offset))?;
        }
        Ok(())
    }
}

impl fmt::Debug for CurrencyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_and_balances_keep_to_their_ranges() {
        assert_eq!(Amount::new(0), None);
        assert_eq!(Amount::new(-1), None);
        assert_eq!(Amount::new(i64::MIN), None);
        assert_eq!(Amount::new(AMOUNT_MAX_MINOR + 1), None);
        assert_eq!(Amount::new(i64::MAX), None);
        assert_eq!(Balance::new(-1), None);
        assert_eq!(Balance::new(AMOUNT_MAX_MINOR + 1), None);
        assert_eq!(Balance::new(0), Some(Balance::ZERO));
    }

    #[test]
    fn currency_codes_survive_packing() {
        for text in ["USD", "EUR", "AAA", "ZZZ", "BITCOINXYZ", "ABCDEFGHIJ"] {
            let code = CurrencyCode::parse(text).unwrap();
            assert_eq!(code.to_string(), text);
            assert_eq!(CurrencyCode::from_packed(code.packed()), Some(code));
        }
        assert_eq!(CurrencyCode::parse("USD"), Some(CurrencyCode::USD));
        for text in ["", "US", "usd", "US1", "U D", "ABCDEFGHIJK", "ÄÖÜ"] {
            assert_eq!(CurrencyCode::parse(text), None, "{text}");
        }
        for packed in [0, 1, 31 << 10, u64::MAX] {
            assert_eq!(CurrencyCode::from_packed(packed), None, "{packed}");
        }
    }

    /// Numbers at and around every limit, and any others.
    fn any_minor() -> impl Strategy<Value = i64> {
        let near = |limit: i64| (-2..=2_i64).prop_map(move |off| limit.saturating_add(off));
        prop_oneof![near(0), near(AMOUNT_MAX_MINOR), near(i64::MIN), near(i64::MAX), any::<i64>()]
    }

    proptest! {
        /// What is computed is what integers without limits give, wherever that is in range.
        #[test]
        fn sums_are_exact_or_refused(held in any_minor(), moved in any_minor()) {
            let in_range = |minor: i128| (0..=AMOUNT_MAX_MINOR.into()).contains(&minor);
            let (balance, amount) = (Balance::new(held), Amount::new(moved));
            let (held, moved) = (i128::from(held), i128::from(moved));
            prop_assert_eq!(balance.is_some(), in_range(held));
            prop_assert_eq!(amount.is_some(), in_range(moved) && moved > 0);
            if let (Some(balance), Some(amount)) = (balance, amount) {
                let exact = |balance: Option<Balance>| balance.map(|it| i128::from(it.minor()));
                let expected = |minor: i128| Some(minor).filter(|minor| in_range(*minor));
                prop_assert_eq!(exact(balance.plus(amount)), expected(held + moved));
                prop_assert_eq!(exact(balance.minus(amount)), expected(held - moved));
            }
        }

        #[test]
        fn every_currency_code_survives_packing(text in "[A-Z]{3,10}", packed in any::<u64>()) {
            let code = CurrencyCode::parse(&text).unwrap();
            prop_assert_eq!(code.to_string(), text);
            prop_assert_eq!(CurrencyCode::from_packed(code.packed()), Some(code));
            if let Some(code) = CurrencyCode::from_packed(packed) {
                prop_assert_eq!(CurrencyCode::parse(&code.to_string()), Some(code));
            }
        }

        #[test]
        fn adding_then_taking_gives_back(
            balance in 0..=AMOUNT_MAX_MINOR,
            amount in 1..=AMOUNT_MAX_MINOR,
        ) {
            let before = Balance::new(balance).unwrap();
            let amount = Amount::new(amount).unwrap();
            match before.plus(amount) {
                Some(after) => prop_assert_eq!(after.minus(amount), Some(before)),
                None => prop_assert!(balance + amount.minor() > AMOUNT_MAX_MINOR),
            }
            if before.minus(amount).is_none() {
                prop_assert!(amount.minor() > balance);
            }
        }
    }
}
