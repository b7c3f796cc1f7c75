//! Texts of people: bounded, on one line, kept exactly as they came.

use std::sync::Arc;

/// How many characters an owner may have.
pub const OWNER_CHARS_MAX: usize = 256;
/// How many characters a reason may have.
pub const REASON_CHARS_MAX: usize = 256;

/// How many characters the name of a principal may have.
pub const PRINCIPAL_CHARS_MAX: usize = 128;

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is empty and must not be.
    #[error("must not be empty")]
    Empty,
    /// It has more characters than this.
    #[error("must have at most {0} characters")]
    TooLong(usize),
    /// It has a control character, such as a line break or an escape.
    #[error("must not contain control characters")]
    Control,
}

fn check(text: &str, chars_max: usize) -> Result<(), TextError> {
    if text.chars().any(char::is_control) {
        Err(TextError::Control)
    } else if text.chars().count() > chars_max {
        Err(TextError::TooLong(chars_max))
    } else {
        Ok(())
    }
}

/// Whom an account belongs to: 1 to [`OWNER_CHARS_MAX`] characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(Box<str>);

impl Owner {
    /// Takes an owner's name as it is, without Unicode normalisation.
    ///
    /// # Errors
    /// [`TextError`] when it is empty, too long, or has control characters.
    pub fn new(text: &str) -> Result<Self, TextError> {
        if text.is_empty() {
            return Err(TextError::Empty);
        }
        check(text, OWNER_CHARS_MAX)?;
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a command was given: at most [`REASON_CHARS_MAX`] characters; empty when nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason(Box<str>);

impl Reason {
    /// Takes a reason as it is.
    ///
    /// # Errors
    /// [`TextError`] when it is too long or has control characters.
    pub fn new(text: &str) -> Result<Self, TextError> {
        check(text, REASON_CHARS_MAX)?;
        Ok(Self(text.into()))
    }

    /// The text; empty when there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who gave a command, as the server knows its callers: 1 to [`PRINCIPAL_CHARS_MAX`] characters.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Takes a principal's name as it is.
    ///
    /// # Errors
    /// [`TextError`] when it is empty, too long, or has control characters.
    pub fn new(name: &str) -> Result<Self, TextError> {
        if name.is_empty() {
            return Err(TextError::Empty);
        }
        check(name, PRINCIPAL_CHARS_MAX)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
