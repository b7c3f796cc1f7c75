//! The plan: what every client of a load does, and when it counts.

use std::time::Duration;

use tokio::time::Instant;

use super::Workload;
use crate::proto::{
    BatchCommand, DepositMoneyRequest, TransferMoneyRequest, batch_command::Command,
};

/// How much each command moves, in minor units.
const AMOUNT_MINOR: i64 = 1;

/// What every client does.
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// The accounts that commands are spread over.
    pub(super) account_ids: Vec<String>,
    /// How many commands a call has.
    pub(super) batch: u64,
}

/// When the measuring is to begin and to end.
#[derive(Clone, Copy)]
pub(super) struct Times {
    start: Instant,
    begin: Duration,
    end: Duration,
}

impl Times {
    /// From now on: first the warm-up, then what is measured.
    pub(super) fn new(warm_up: Duration, measured: Duration) -> Self {
        Self { start: Instant::now(), begin: warm_up, end: warm_up.saturating_add(measured) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.start.elapsed() >= self.end
    }

    /// Whether the warm-up is over: the time of a call that ends now is measured.
    pub(super) fn is_warm(&self) -> bool {
        self.start.elapsed() >= self.begin
    }

    /// Whether what ends now counts for the throughput.
    pub(super) fn counts(&self) -> bool {
        self.is_warm() && !self.is_over()
    }
}

impl Plan {
    /// A command of the workload.
    pub(super) fn command(&self, dice: &mut Dice) -> BatchCommand {
        let command = match self.workload {
            Workload::Transfer => Command::TransferMoney(self.transfer(dice)),
            Workload::Deposit | Workload::Read | Workload::Tail => {
                Command::DepositMoney(self.deposit(dice))
            }
        };
        BatchCommand { command: Some(command) }
    }

    /// As many commands as a call has.
    pub(super) fn batch(&self, dice: &mut Dice) -> Vec<BatchCommand> {
        (0..self.batch).map(|_| self.command(dice)).collect()
    }

    /// A deposit into a random account.
    pub(super) fn deposit(&self, dice: &mut Dice) -> DepositMoneyRequest {
        let (account_id, amount_minor) = (self.account_id(dice), AMOUNT_MINOR);
        DepositMoneyRequest { account_id, amount_minor, ..DepositMoneyRequest::default() }
    }

    /// A transfer between two random accounts.
    pub(super) fn transfer(&self, dice: &mut Dice) -> TransferMoneyRequest {
        let from_account_id = self.account_id(dice);
        let mut to_account_id = self.account_id(dice);
        while to_account_id == from_account_id {
            to_account_id = self.account_id(dice);
        }
        TransferMoneyRequest {
            from_account_id,
            to_account_id,
            amount_minor: AMOUNT_MINOR,
            ..TransferMoneyRequest::default()
        }
    }

    /// A random account.
    pub(super) fn account_id(&self, dice: &mut Dice) -> String {
        let index = dice.throw(self.account_ids.len());
        self.account_ids.get(index).cloned().unwrap_or_default()
    }
}

/// Random numbers that can be had again: xorshift64* (S. Vigna, 2016).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to below `sides`.
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let sides = u64::try_from(sides).unwrap_or(u64::MAX);
        usize::try_from(number.checked_rem(sides).unwrap_or(0)).unwrap_or(0)
    }
}
