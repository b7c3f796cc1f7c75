//! Ids: UUIDs that say what they name.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use uuid::Uuid;

/// How long the canonical text of a UUID is: 32 digits and 4 hyphens.
const CANONICAL_CHARS: usize = 36;

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is not a UUID in the 8-4-4-4-12 form.
    #[error("must be a UUID in canonical text, such as 0190d5f2-3c4b-7a6e-9d1f-2b3c4d5e6f70")]
    Malformed,
    /// It is the UUID of zeros, which names nothing.
    #[error("must not be the nil UUID")]
    Nil,
}

/// Reads a UUID in canonical text. Hexadecimal digits may be upper-case, as RFC 9562 has it.
fn parse(text: &str) -> Result<Uuid, IdError> {
    if text.len() != CANONICAL_CHARS {
        return Err(IdError::Malformed);
    }
    let uuid = Uuid::try_parse(text).map_err(|_| IdError::Malformed)?;
    if uuid.is_nil() { Err(IdError::Nil) } else { Ok(uuid) }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID that is known not to be nil.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Reads the canonical text of a UUID.
            ///
            /// # Errors
            /// [`IdError`] when it is malformed or nil.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }

            /// The UUID itself.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Its 16 bytes.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        /// As one number: several times faster than byte by byte, and ids are looked up for every
        /// command.
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                state.write_u128(self.0.as_u128());
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Names an account.
    AccountId
}
id! {
    /// Names a saga.
    SagaId
}
id! {
    /// Names a command, so that a repeat of it is known: the idempotency key.
    RequestId
}
