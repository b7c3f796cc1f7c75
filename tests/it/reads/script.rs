//! The script: random commands of every kind, so that there is something to read.

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, OpenAccountRequest, TransferMoneyRequest,
    WithdrawMoneyRequest,
};

use crate::service::{
    Client, InBatch as _, Random, batch_of, close, deposit, fresh_id, open, transfer, withdraw,
};

pub(super) const OWNERS: [&str; 3] = ["ada", "bob", "Zoë \u{10348}"];

/// Gives about `count` commands, some of which will be refused: alone and in batches. The ids are
/// those of the accounts that are open or were.
pub(super) async fn play(
    client: &Client,
    random: &mut Random,
    ids: &mut Vec<String>,
    count: usize,
) {
    if ids.is_empty() {
        for _ in 0..3 {
            let (id, command) = opening(random);
            ids.push(id);
            client.carry_out(vec![command]).await;
        }
    }
    let mut played = 0;
    while played < count {
        let size = if random.below(3) == 0 { 1 + random.below(8) } else { 1 };
        let mut commands = Vec::new();
        for _ in 0..size {
            commands.push(command(random, ids));
        }
        played += size;
        client.call(batch_of(commands)).await.unwrap();
    }
}

fn opening(random: &mut Random) -> (String, BatchCommand) {
    let account_id = fresh_id();
    let currency_code = if random.below(6) == 0 { "EUR" } else { "USD" }.to_owned();
    let balance = random.between(0, 2) * 500;
    let request = open(OWNERS[random.below(OWNERS.len())], balance);
    let request = OpenAccountRequest { account_id: account_id.clone(), currency_code, ..request };
    (account_id, request.in_batch())
}

fn command(random: &mut Random, ids: &mut Vec<String>) -> BatchCommand {
    let id = random.pick(ids).clone();
    let amount = random.between(1, 300);
    let reason = if random.below(2) == 0 { "rent" } else { "" }.to_owned();
    let request_id = if random.below(3) == 0 { fresh_id() } else { String::new() };
    match random.below(20) {
        0 if ids.len() < 12 => {
            let (id, command) = opening(random);
            ids.push(id);
            command
        }
        1 => close(&id).in_batch(),
        2..=6 => DepositMoneyRequest { reason, request_id, ..deposit(&id, amount) }.in_batch(),
        7..=9 => WithdrawMoneyRequest { reason, request_id, ..withdraw(&id, amount) }.in_batch(),
        _ => {
            let to = match random.below(8) {
                0 => fresh_id(),
                _ => random.pick(ids).clone(),
            };
            let saga_id = if random.below(3) == 0 { fresh_id() } else { String::new() };
            let request = transfer(&id, &to, amount);
            TransferMoneyRequest { saga_id, reason, request_id, ..request }.in_batch()
        }
    }
}
