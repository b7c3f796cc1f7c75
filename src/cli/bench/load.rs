//! The load: so many clients, each with one call under way at any time, or streams with a window.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tonic::{Status, transport::Channel};

use super::{
    BenchArgs, Workload,
    measure::Measure,
    plan::{Dice, Plan, Times},
    purse::Purse,
    stream::Streamer,
};
use crate::{
    cli::CliError,
    proto::{
        ExecuteBatchRequest, GetAccountRequest, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
    },
};

/// Puts the load that was asked for on the accounts of a purse.
pub(super) async fn run(args: &BenchArgs, purse: &Purse) -> Result<Measure, CliError> {
    let plan = Arc::new(Plan {
        workload: args.workload,
        account_ids: purse.account_ids.clone(),
        batch: args.batch,
    });
    let mut channels = Vec::new();
    for _ in 0..args.connections {
        channels.push(args.connect.connect().await?);
    }
    let times = Times::new(Duration::from_secs(args.warm_up), Duration::from_secs(args.seconds));
    let mut clients = JoinSet::new();
    if args.stream {
        let window = args.in_flight.checked_div(args.connections).unwrap_or(1).max(1);
        let window = usize::try_from(window).unwrap_or(1);
        for (number, channel) in (0..).zip(channels) {
            let dice = Dice::new(args.seed.wrapping_add(number));
            let streamer = Streamer::open(channel, Arc::clone(&plan), dice, window).await?;
            clients.spawn(streamer.run(times));
        }
    } else {
        for (number, channel) in (0..args.in_flight).zip(channels.iter().cycle()) {
            let dice = Dice::new(args.seed.wrapping_add(number));
            clients.spawn(Client::new(channel, &plan, dice)?.run(times));
        }
    }
    let mut measure = Measure::new()?;
    while let Some(client) = clients.join_next().await {
        measure.add(&client.map_err(|error| CliError::Call(error.to_string()))?)?;
    }
    Ok(measure)
}

/// A client that makes one call after another.
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
        let (plan, dice) = (&self.plan, &mut self.dice);
        match plan.workload {
            Workload::Read => {
                let account_id = plan.account_id(dice);
                let request = GetAccountRequest { account_id, ..GetAccountRequest::default() };
                self.queries.get_account(request).await?;
            }
            Workload::Deposit | Workload::Transfer | Workload::Tail if plan.batch > 1 => {
                let commands = plan.batch(dice);
                let request = ExecuteBatchRequest { commands, return_results: false };
                let response = self.commands.execute_batch(request).await?.into_inner();
                let accepted = u64::try_from(response.accepted_count).unwrap_or(0);
                return Ok((accepted, plan.batch.saturating_sub(accepted)));
            }
            Workload::Transfer => {
                self.commands.transfer_money(plan.transfer(dice)).await?;
            }
            Workload::Deposit | Workload::Tail => {
                self.commands.deposit_money(plan.deposit(dice)).await?;
            }
        }
        Ok((1, 0))
    }
}
