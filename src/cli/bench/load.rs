//! The load: so many clients, each with one call under way at any time, or streams with a window.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};

use super::{
    BenchArgs,
    account_ids::AccountIds,
    caller::Caller,
    measure::Shared,
    plan::{Dice, Plan},
    stream::Streamer,
};
use crate::cli::CliError;

/// How often the progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Puts the load that was asked for on some accounts. Gives how long was measured, in
/// milliseconds.
pub(super) async fn run(
    args: &BenchArgs,
    account_ids: AccountIds,
    measure: &Shared,
) -> Result<u64, CliError> {
    let mut channels = Vec::new();
    for _ in 0..args.connections {
        channels.push(args.connect.connect().await?);
    }
    let plan = Arc::new(Plan::new(args, account_ids));
    let mut clients = JoinSet::new();
    let bar = tokio::spawn(show_progress(Arc::clone(&plan)));
    if args.stream {
        let window = args.in_flight().checked_div(args.connections).unwrap_or(1).max(1);
        let window = usize::try_from(window).unwrap_or(1);
        for (number, channel) in (0..).zip(channels) {
            let dice = Dice::new(args.seed.wrapping_add(number));
            let plan = Arc::clone(&plan);
            let streamer = Streamer::open(channel, plan, dice, window, measure.clone()).await?;
            clients.spawn(streamer.run());
        }
    } else {
        for (number, channel) in (0..args.in_flight()).zip(channels.iter().cycle()) {
            let dice = Dice::new(args.seed.wrapping_add(number));
            let caller = Caller::new(channel);
            clients.spawn(call_on(caller, Arc::clone(&plan), dice, measure.clone()));
        }
    }
    while let Some(client) = clients.join_next().await {
        client.map_err(|error| CliError::Call(error.to_string()))?;
    }
    bar.abort();
    Ok(plan.measured_millis())
}

/// One client: one call after another, each when it is due.
async fn call_on(mut caller: Caller, plan: Arc<Plan>, mut dice: Dice, measure: Shared) {
    while let Some(due) = plan.next_call() {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let sent = Instant::now();
        let ended = caller.call(&plan, &mut dice).await;
        measure.lock().take(ended, plan.counts(), due, sent);
    }
}

/// Shows how far the load is, where there is a terminal.
async fn show_progress(plan: Arc<Plan>) {
    let bar = ProgressBar::new(1_000);
    let mut ticks = interval(PROGRESS_INTERVAL);
    loop {
        ticks.tick().await;
        bar.set_position(plan.progress());
    }
}
