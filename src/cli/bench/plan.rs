//! The plan: what every client of a load does, and when.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{BenchArgs, Workload, account_ids::AccountIds};
use crate::proto::{
    BatchCommand, DepositMoneyRequest, TransferMoneyRequest, WithdrawMoneyRequest,
    batch_command::Command,
};

/// How much each command moves, in minor units.
pub(super) const AMOUNT_MINOR: i64 = 1;

/// How many lines or events a page has.
pub(super) const PAGE_LINES: u16 = 50;

/// What every client does, and when.
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// The accounts that commands are spread over.
    pub(super) account_ids: AccountIds,
    /// How many events an account has after which a page of its history may begin.
    page_starts: usize,
    /// How many commands a call has.
    pub(super) batch: u64,
    start: Instant,
    warm_up: Duration,
    measured: Duration,
    /// Calls to begin each second; 0 for as many as there can be.
    rate: u64,
    /// Calls to begin in all; 0 for as many as there is time for.
    count: u64,
    /// Calls that have been given out.
    begun: AtomicU64,
}

impl Plan {
    /// The plan of a load that begins now.
    pub(super) fn new(args: &BenchArgs, account_ids: AccountIds) -> Self {
        Self {
            workload: args.workload,
            account_ids,
            // Its opening is an event as well; a page begins after none of them, or after some.
            page_starts: usize::try_from(args.history.saturating_add(1))
                .unwrap_or(usize::MAX)
                .saturating_sub(usize::from(PAGE_LINES)),
            batch: args.batch,
            start: Instant::now(),
            warm_up: Duration::from_secs(if args.count > 0 { 0 } else { args.warm_up }),
            measured: Duration::from_secs(args.seconds),
            rate: args.rate,
            count: args.count,
            begun: AtomicU64::new(0),
        }
    }

    /// When the next call is due; `None` when there is none any more.
    ///
    /// With a rate, calls are due at their times whether or not earlier ones have been answered,
    /// and their time counts from then: a server that is late cannot hide it (G. Tene calls the
    /// opposite coordinated omission).
    pub(super) fn next_call(&self) -> Option<Instant> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if self.count > 0 && number >= self.count {
            return None;
        }
        let micros = number.saturating_mul(1_000_000).checked_div(self.rate);
        let due = match micros {
            Some(micros) => self.start.checked_add(Duration::from_micros(micros))?,
            None => Instant::now(),
        };
        (due.duration_since(self.start) < self.warm_up.saturating_add(self.measured)).then_some(due)
    }

    /// Whether what ends now is within the measured time.
    pub(super) fn counts(&self) -> bool {
        let now = self.start.elapsed();
        now >= self.warm_up && now < self.warm_up.saturating_add(self.measured)
    }

    /// How long was measured until now, in milliseconds, 1 or more.
    pub(super) fn measured_millis(&self) -> u64 {
        let measured = self.start.elapsed().saturating_sub(self.warm_up).min(self.measured);
        u64::try_from(measured.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// How far the load is, of 1,000.
    pub(super) fn progress(&self) -> u64 {
        let whole = self.warm_up.saturating_add(self.measured).as_millis().max(1);
        let done = self.start.elapsed().as_millis().saturating_mul(1_000);
        let by_time = done.checked_div(whole).and_then(|done| u64::try_from(done).ok());
        let begun = self.begun.load(Ordering::Relaxed).saturating_mul(1_000);
        let by_count = begun.checked_div(self.count).unwrap_or(0);
        by_time.unwrap_or(1_000).max(by_count).min(1_000)
    }

    /// A command of the workload, for a batch.
    pub(super) fn command(&self, dice: &mut Dice) -> BatchCommand {
        let command = match self.workload {
            Workload::Transfer | Workload::HotTransfer => {
                Command::TransferMoney(self.transfer(dice))
            }
            Workload::Deposit
            | Workload::Read
            | Workload::Statement
            | Workload::HistoryPage
            | Workload::Wallet
            | Workload::Smallbank
            | Workload::Tail => Command::DepositMoney(self.deposit(dice)),
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

    /// A withdrawal from a random account.
    pub(super) fn withdrawal(&self, dice: &mut Dice) -> WithdrawMoneyRequest {
        let (account_id, amount_minor) = (self.account_id(dice), AMOUNT_MINOR);
        WithdrawMoneyRequest { account_id, amount_minor, ..WithdrawMoneyRequest::default() }
    }

    /// A transfer between two random accounts; one of them is always the same if it is hot.
    pub(super) fn transfer(&self, dice: &mut Dice) -> TransferMoneyRequest {
        let accounts = self.account_ids.count();
        let hot = self.workload == Workload::HotTransfer;
        let one = if hot { 0 } else { dice.throw(accounts) };
        let mut other = dice.throw(accounts);
        while other == one {
            other = dice.throw(accounts);
        }
        let (from, to) = if dice.throw(2) == 0 { (one, other) } else { (other, one) };
        TransferMoneyRequest {
            from_account_id: self.at(from),
            to_account_id: self.at(to),
            amount_minor: AMOUNT_MINOR,
            ..TransferMoneyRequest::default()
        }
    }

    /// A random place in the history of an account after which there is a page of it, if it is long
    /// enough.
    pub(super) fn page_start(&self, dice: &mut Dice) -> i64 {
        i64::try_from(dice.throw(self.page_starts.saturating_add(1))).unwrap_or(0)
    }

    /// A random account.
    pub(super) fn account_id(&self, dice: &mut Dice) -> String {
        self.at(dice.throw(self.account_ids.count()))
    }

    /// The account at a place.
    pub(super) fn at(&self, index: usize) -> String {
        self.account_ids.at(index).hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
    }
}

/// Random numbers that can be had again: xorshift64* (S. Vigna, 2016).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to below `sides`.
    pub(super) fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let sides = u64::try_from(sides).unwrap_or(u64::MAX);
        usize::try_from(number.checked_rem(sides).unwrap_or(0)).unwrap_or(0)
    }
}
