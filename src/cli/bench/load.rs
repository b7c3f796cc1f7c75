//! The load: so many clients, each with one call under way at any time.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tonic::{Status, transport::Channel};

use super::{BenchArgs, Workload, measure::Measure, purse::Purse};
use crate::{
    cli::{CliError, connect::ConnectArgs},
    wire::proto::{
        BatchCommand, DepositMoneyRequest, ExecuteBatchRequest, GetAccountRequest,
        TransferMoneyRequest, batch_command::Command, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
    },
};

/// How much each command moves, in minor units.
const AMOUNT_MINOR: i64 = 1;

/// A load to be put on a server.
pub(super) struct Load {
    connect: ConnectArgs,
    plan: Arc<Plan>,
    connections: u64,
    in_flight: u64,
    seed: u64,
}

/// What every client does.
struct Plan {
    workload: Workload,
    account_ids: Vec<String>,
    batch: u64,
}

/// When the measuring is to begin and to end.
#[derive(Clone, Copy)]
struct Times {
    start: Instant,
    begin: Duration,
    end: Duration,
}

impl Times {
    fn is_over(&self) -> bool {
        self.start.elapsed() >= self.end
    }

    /// Whether the warm-up is over: the time of a call that ends now is measured.
    fn is_warm(&self) -> bool {
        self.start.elapsed() >= self.begin
    }

    /// Whether what ends now counts for the throughput.
    fn counts(&self) -> bool {
        self.is_warm() && !self.is_over()
    }
}

impl Load {
    /// The load that was asked for, over the accounts of a purse.
    pub(super) fn new(args: &BenchArgs, purse: &Purse) -> Self {
        let plan = Plan {
            workload: args.workload,
            account_ids: purse.account_ids.clone(),
            batch: args.batch,
        };
        Self {
            connect: args.connect.clone(),
            plan: Arc::new(plan),
            connections: args.connections,
            in_flight: args.in_flight,
            seed: args.seed,
        }
    }

    /// Runs it for `warm_up` and then for `measured`, which alone is counted.
    pub(super) async fn run(
        self,
        warm_up: Duration,
        measured: Duration,
    ) -> Result<Measure, CliError> {
        let mut channels = Vec::new();
        for _ in 0..self.connections {
            channels.push(self.connect.connect().await?);
        }
        let end = warm_up.saturating_add(measured);
        let times = Times { start: Instant::now(), begin: warm_up, end };
        let mut clients = JoinSet::new();
        for (number, channel) in (0..self.in_flight).zip(channels.iter().cycle()) {
            let dice = Dice::new(self.seed.wrapping_add(number));
            clients.spawn(Client::new(channel, &self.plan, dice)?.run(times));
        }
        let mut measure = Measure::new()?;
        while let Some(client) = clients.join_next().await {
            measure.add(&client.map_err(|error| CliError::Call(error.to_string()))?)?;
        }
        Ok(measure)
    }
}

/// One client.
struct Client {
    commands: CommandServiceClient<Channel>,
    queries: QueryServiceClient<Channel>,
    plan: Arc<Plan>,
    dice: Dice,
    measure: Measure,
}

impl Client {
    fn new(channel: &Channel, plan: &Arc<Plan>, dice: Dice) -> Result<Self, CliError> {
        Ok(Self {
            commands: CommandServiceClient::new(channel.clone()),
            queries: QueryServiceClient::new(channel.clone()),
            plan: Arc::clone(plan),
            dice,
            measure: Measure::new()?,
        })
    }

    async fn run(mut self, times: Times) -> Measure {
        while !times.is_over() {
            let begin = Instant::now();
            let called = self.call().await;
            if times.is_warm() {
                self.measure.took(begin.elapsed());
            }
            match called {
                Ok(counts) => self.measure.count(counts, times.counts()),
                Err(_) => self.measure.fail(),
            }
        }
        self.measure
    }

    /// Makes one call: how many commands of it were accepted, and how many refused.
    async fn call(&mut self) -> Result<(u64, u64), Status> {
        if self.plan.workload == Workload::Read {
            let account_id = self.account_id();
            let request = GetAccountRequest { account_id, ..GetAccountRequest::default() };
            self.queries.get_account(request).await?;
            return Ok((1, 0));
        }
        if self.plan.batch > 1 {
            let commands = (0..self.plan.batch).map(|_| self.command()).collect();
            let request = ExecuteBatchRequest { commands, return_results: false };
            let response = self.commands.execute_batch(request).await?.into_inner();
            let accepted = u64::try_from(response.accepted_count).unwrap_or(0);
            return Ok((accepted, self.plan.batch.saturating_sub(accepted)));
        }
        match self.plan.workload {
            Workload::Transfer => {
                let request = self.transfer();
                self.commands.transfer_money(request).await.map(drop)?;
            }
            Workload::Deposit | Workload::Read | Workload::Tail => {
                let request = self.deposit();
                self.commands.deposit_money(request).await.map(drop)?;
            }
        }
        Ok((1, 0))
    }

    fn command(&mut self) -> BatchCommand {
        let command = match self.plan.workload {
            Workload::Transfer => Command::TransferMoney(self.transfer()),
            Workload::Deposit | Workload::Read | Workload::Tail => {
                Command::DepositMoney(self.deposit())
            }
        };
        BatchCommand { command: Some(command) }
    }

    fn deposit(&mut self) -> DepositMoneyRequest {
        let (account_id, amount_minor) = (self.account_id(), AMOUNT_MINOR);
        DepositMoneyRequest { account_id, amount_minor, ..DepositMoneyRequest::default() }
    }

    fn transfer(&mut self) -> TransferMoneyRequest {
        let from_account_id = self.account_id();
        let mut to_account_id = self.account_id();
        while to_account_id == from_account_id {
            to_account_id = self.account_id();
        }
        TransferMoneyRequest {
            from_account_id,
            to_account_id,
            amount_minor: AMOUNT_MINOR,
            ..TransferMoneyRequest::default()
        }
    }

    fn account_id(&mut self) -> String {
        let ids = &self.plan.account_ids;
        let index = self.dice.throw(ids.len());
        ids.get(index).cloned().unwrap_or_default()
    }
}

/// Random numbers that can be had again: xorshift64* (S. Vigna, 2016).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
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
