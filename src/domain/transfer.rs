//! The transfer saga: a pure state machine of steps and compensation.

/// Why a transfer did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// The source has less than the amount.
    InsufficientFunds,
    /// The destination does not exist.
    DestinationNotFound,
    /// The destination is closed.
    DestinationClosed,
    /// The destination's balance would exceed its limit.
    BalanceLimit,
}

impl TransferError {
    /// What it is called wherever somebody is told of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InsufficientFunds => "INSUFFICIENT_FUNDS",
            Self::DestinationNotFound => "DESTINATION_NOT_FOUND",
            Self::DestinationClosed => "DESTINATION_CLOSED",
            Self::BalanceLimit => "BALANCE_LIMIT",
        }
    }
}

/// Where a transfer stands: the step to take now, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferPhase {
    /// To do: take the money from the source.
    Withdraw,
    /// To do: give the money to the destination.
    Deposit,
    /// To do: give the money back to the source, because of this.
    Compensate(TransferError),
    /// Ended: the money has moved.
    Completed,
    /// Ended: no money had moved, because of this.
    Failed(TransferError),
    /// Ended: the money was given back, because of this.
    Compensated(TransferError),
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It took place.
    Done,
    /// A rule refused it.
    Refused(TransferError),
}

/// The phase that follows when the step of `phase` ended with `outcome`.
///
/// Total: an ended transfer stays as it ended, and a refused compensation is to be tried again,
/// because money that was taken must go somewhere.
#[must_use]
pub fn next_phase(phase: TransferPhase, outcome: StepOutcome) -> TransferPhase {
    use StepOutcome::{Done, Refused};
    use TransferPhase::{Compensate, Compensated, Completed, Deposit, Failed, Withdraw};
    match (phase, outcome) {
        (Withdraw, Done) => Deposit,
        (Deposit, Done) | (Completed, Done | Refused(_)) => Completed,
        (Deposit, Refused(error)) | (Compensate(error), Refused(_)) => Compensate(error),
        (Compensate(error), Done) | (Compensated(error), Done | Refused(_)) => Compensated(error),
        (Withdraw, Refused(error)) | (Failed(error), Done | Refused(_)) => Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_its_steps_in_order() {
        use StepOutcome::{Done, Refused};
        use TransferError::{DestinationClosed, InsufficientFunds};
        use TransferPhase::{Compensate, Compensated, Completed, Deposit, Failed, Withdraw};
        let table = [
            (Withdraw, Done, Deposit),
            (Withdraw, Refused(InsufficientFunds), Failed(InsufficientFunds)),
            (Deposit, Done, Completed),
            (Deposit, Refused(DestinationClosed), Compensate(DestinationClosed)),
            (Compensate(DestinationClosed), Done, Compensated(DestinationClosed)),
            (
                Compensate(DestinationClosed),
                Refused(InsufficientFunds),
                Compensate(DestinationClosed),
            ),
            (Completed, Refused(InsufficientFunds), Completed),
            (Failed(InsufficientFunds), Done, Failed(InsufficientFunds)),
            (Compensated(DestinationClosed), Done, Compensated(DestinationClosed)),
        ];
        for (phase, outcome, expected) in table {
            assert_eq!(next_phase(phase, outcome), expected, "{phase:?} {outcome:?}");
        }
    }
}
