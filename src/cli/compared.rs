//! Comparing a checkpoint with what the log adds up to where it was made.

use std::{fmt, io};

use crate::{
    log::{CheckpointFault, Damage, Pieces},
    views::Fold,
};

/// A checkpoint, and what came of comparing it.
pub(super) struct Compared {
    /// Until it is compared.
    waiting: Option<Box<dyn Pieces>>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// There is none.
    None,
    /// A start leaves it alone.
    NoUse(CheckpointFault),
    /// What was read of the log ends before it.
    Ahead(u64),
    Same(u64),
    Other(u64),
}

impl Compared {
    /// What was found when a checkpoint was looked for.
    pub(super) fn new<P: Pieces + 'static>(found: Result<Option<P>, CheckpointFault>) -> Self {
        match found {
            Ok(None) => Self::none(),
            Ok(Some(pieces)) => {
                let outcome = Outcome::Ahead(pieces.position());
                Self { waiting: Some(Box::new(pieces)), outcome }
            }
            Err(fault) => Self { waiting: None, outcome: Outcome::NoUse(fault) },
        }
    }

    /// There is none.
    pub(super) fn none() -> Self {
        Self { waiting: None, outcome: Outcome::None }
    }

    /// Compares it, if the log was folded just as far. Gives whether it should have been, and could
    /// not be read.
    pub(super) fn look(&mut self, fold: &mut Fold, position: u64) -> bool {
        let waiting = self.waiting.take_if(|pieces| pieces.position() == position);
        let Some(mut pieces) = waiting else { return false };
        self.outcome = match fold.is_told_by(&mut *pieces) {
            Ok(true) => Outcome::Same(position),
            Ok(false) => Outcome::Other(position),
            Err(fault) => Outcome::NoUse(fault),
        };
        matches!(self.outcome, Outcome::NoUse(_))
    }

    /// What could not be read says nothing, and nothing is said of it.
    ///
    /// # Errors
    /// Why it could not be read.
    pub(super) fn expect_read(&self) -> Result<(), io::Error> {
        let Outcome::NoUse(fault @ CheckpointFault::Io(error)) = &self.outcome else {
            return Ok(());
        };
        Err(io::Error::new(error.kind(), fault.to_string()))
    }

    /// A checkpoint that tells something else is believed by the next start.
    ///
    /// # Errors
    /// [`Damage`] in what keeps the checkpoint, then.
    pub(super) fn check(&self, kept_in: &str) -> Result<(), Damage> {
        let Outcome::Other(position) = self.outcome else { return Ok(()) };
        let what = "the checkpoint tells something else than the log: remove it".to_owned();
        Err(Damage { file: kept_in.to_owned(), offset: 0, position, what })
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::None => f.write_str("none"),
            Outcome::NoUse(fault) => write!(f, "not used: {fault}"),
            Outcome::Ahead(position) => write!(f, "of position {position}, not reached"),
            Outcome::Same(position) => write!(f, "of position {position}, as the log says"),
            Outcome::Other(position) => write!(f, "of position {position}, not as the log says"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of a place, with nothing in it.
    struct Empty(u64);

    impl Pieces for Empty {
        fn position(&self) -> u64 {
            self.0
        }

        fn next_piece(&mut self) -> Result<Option<&[u8]>, CheckpointFault> {
            Ok(None)
        }
    }

    #[test]
    fn what_came_of_it_is_told() {
        let mut fold = Fold::new(1_024);
        let mut compared = Compared::new(Ok(Some(Empty(2))));
        assert!(!compared.look(&mut fold, 1));
        assert_eq!(compared.to_string(), "of position 2, not reached");
        compared.check("checkpoint").unwrap();
        assert!(!compared.look(&mut fold, 2));
        assert!(!compared.look(&mut fold, 3));
        assert_eq!(compared.to_string(), "of position 2, not as the log says");
        let damage = compared.check("checkpoint").unwrap_err();
        assert_eq!((damage.file.as_str(), damage.position), ("checkpoint", 2));
        compared.expect_read().unwrap();
        Compared::new::<Empty>(Err(io::Error::other("EIO").into())).expect_read().unwrap_err();
        let unknown = Compared::new::<Empty>(Err(CheckpointFault::Version(9)));
        assert_eq!(unknown.to_string(), "not used: the checkpoint is of format version 9");
        unknown.check("checkpoint").unwrap();
        assert_eq!(Compared::none().to_string(), "none");
    }
}
