//! What `tests/instructions/run` counts the instructions of: scenarios of the hot path, each with
//! a fixed number of operations.
//!
//! `--scenario NAME` runs one; with anything else, as when `cargo bench` runs it, it lists them and
//! how many operations each has. Only what [`counted`] runs is counted, and only on the thread that
//! calls it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program beside the product: it reports on its output, and what goes wrong fails"
)]

use std::{
    env,
    hint::black_box,
    path::Path,
    sync::{Arc, mpsc as blocking},
};

use daybook::{
    domain::{Action, Command, Register},
    event_store::{self, Entry, History, Parts, REQUEST_ID_WINDOW_DEFAULT},
    log::{
        Block, Group, LogWriter,
        file::{self, Options, StdDisk},
        memory,
    },
    ops::{ManualClock, config::Limits},
    proto::{
        BatchCommand, BatchMessage, ExecuteBatchRequest, TransferMoneyRequest, batch_command,
        command_service_server::CommandService as _,
    },
    views::{Books, Fold, Views},
    wire::{self, Desk, Reads},
};
use prost::Message as _;
use tokio::{runtime, sync::watch};
use tonic::Request;

use self::bank::{BATCH_COMMANDS, Bank, Commands, LOG_ID, TIME_MICROS};

mod bank;

/// So many commands are decoded where their call is carried.
const SMALL_BATCH_COMMANDS: usize = 100;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many commands a scenario has: enough that what happens once does not weigh, few enough for
/// a simulated processor.
const OPERATIONS: usize = 100_000;
/// Accounts of an ordinary scenario, and of the one that shows what many accounts cost.
const ACCOUNTS: u64 = 10_000;
const MANY_ACCOUNTS: u64 = 200_000;

/// A name, and what runs under it.
type Scenario = (&'static str, fn());

const SCENARIOS: [Scenario; 10] = [
    ("decide_transfers", || decide(ACCOUNTS, Commands::transfers)),
    ("decide_transfers_many_accounts", || decide(MANY_ACCOUNTS, Commands::transfers)),
    ("decide_deposits", || decide(ACCOUNTS, Commands::deposits)),
    ("append_memory", append_memory),
    ("append_file", append_file),
    ("verify_file", verify_file),
    ("fold_at_start", fold_at_start),
    ("apply_to_views", apply_to_views),
    ("execute_batches", || execute_batches(false)),
    ("execute_batches_with_results", || execute_batches(true)),
];

fn main() {
    let mut arguments = env::args().skip_while(|argument| argument != "--scenario").skip(1);
    let Some(wanted) = arguments.next() else {
        for (name, _) in SCENARIOS {
            println!("{name} {OPERATIONS}");
        }
        return;
    };
    let scenario = SCENARIOS.iter().find(|(name, _)| *name == wanted);
    let (_, run) = scenario.unwrap_or_else(|| panic!("there is no scenario {wanted}"));
    run();
}

/// Runs what is to be counted. The counter finds it by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    // The call above is not the last thing, so that it is a call and not a jump.
    black_box(());
}

/// Decides commands on so many accounts and encodes what they record, as the writer does.
fn decide(accounts: u64, make: fn(&mut Commands, usize) -> Vec<Command>) {
    let mut commands = Commands::new(accounts);
    let mut bank = Bank::open(&commands);
    let all = make(&mut commands, OPERATIONS);
    counted(&mut || {
        for batch in all.chunks(BATCH_COMMANDS) {
            black_box(bank.decide_group(batch));
        }
    });
}

/// The groups of a log that has opened accounts and transfers, and how many of them the openings
/// take: those are never counted.
fn groups() -> (Vec<Group>, usize) {
    let groups = Bank::groups(&mut Commands::new(ACCOUNTS), OPERATIONS);
    let opening_count = groups.partition_point(|group| group.first_position() <= ACCOUNTS);
    (groups, opening_count)
}

/// Appends the groups of transfers to an empty log, after those of openings.
fn append(writer: &mut dyn LogWriter, measure: fn(&mut dyn FnMut())) {
    let (groups, opening_count) = groups();
    let (openings, transfers) = groups.split_at(opening_count);
    let mut append_all = |groups: &[Group]| {
        for group in groups {
            black_box(writer.append(group).unwrap());
        }
    };
    append_all(openings);
    measure(&mut || append_all(transfers));
}

fn append_memory() {
    let (mut writer, _reader) = memory::open(LOG_ID);
    append(&mut *writer, counted);
}

/// Writes a log in files, and closes it.
fn write_log(directory: &Path, measure: fn(&mut dyn FnMut())) {
    let disk = Arc::new(StdDisk::open(directory).unwrap());
    let options = Options::new(LOG_ID, TIME_MICROS);
    let opened = file::open(disk, &options, &mut |_, _| Ok(())).unwrap();
    let mut writer = opened.writer.unwrap();
    append(&mut *writer, measure);
    writer.close().unwrap();
}

fn append_file() {
    write_log(tempfile::tempdir().unwrap().path(), counted);
}

/// Reads every byte of a log and checks it. The openings and the empty end are counted as well,
/// but they are little beside the transfers.
fn verify_file() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path(), |append| append());
    let disk = StdDisk::open_read_only(directory.path()).unwrap();
    counted(&mut || {
        let verified = file::verify(&disk, &mut |_, _| (), &mut |_, _| Ok(())).unwrap();
        assert!(verified.is_stopped, "{verified:?}");
    });
}

fn fold_at_start() {
    let blocks = bank::blocks(&groups().0);
    let opening_count = blocks.partition_point(|block| block.last_position() <= ACCOUNTS);
    let (openings, transfers) = blocks.split_at(opening_count);
    let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
    let mut add_all = |blocks: &[Arc<Block>]| {
        for block in blocks {
            fold.add(&LOG_ID, block).unwrap();
        }
    };
    add_all(openings);
    counted(&mut || add_all(transfers));
}

fn apply_to_views() {
    let entries = bank::entries(&groups().0);
    let opening_count = entries.partition_point(|entry| entry.first_position <= ACCOUNTS);
    let (openings, transfers) = entries.split_at(opening_count);
    let mut books = Books::new(Register::default());
    let mut apply_all = |entries: &[Entry]| {
        for entry in entries {
            books.apply(entry).unwrap();
        }
    };
    apply_all(openings);
    counted(&mut || apply_all(transfers));
}

/// Transfers in batches through the service, from the bytes of a request to those of the answer:
/// what they cost the thread of the runtime. Writer and syncer have their own.
fn execute_batches(return_results: bool) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut commands = Commands::new(ACCOUNTS);
    let service = {
        let _guard = runtime.enter();
        service(&commands)
    };
    let transfers = commands.transfers(OPERATIONS);
    // Small ones: what is decoded on another thread is not counted.
    let batches = transfers.chunks(SMALL_BATCH_COMMANDS);
    let requests: Vec<Vec<u8>> =
        batches.map(|batch| request_bytes(batch, return_results)).collect();
    counted(&mut || {
        for request in &requests {
            let request = BatchMessage::from(request.clone());
            let answer = runtime.block_on(service.execute_batch(Request::new(request)));
            black_box(answer.unwrap().into_inner().encode_to_vec());
        }
    });
}

/// A service with open accounts, on the memory engine. It runs until the process ends.
fn service(commands: &Commands) -> wire::Commands {
    let mut bank = Bank::new();
    let (mut writer, reader) = memory::open(LOG_ID);
    bank.open_in(commands, &mut *writer);
    let (durable_sender, durable) = watch::channel(reader.head().position);
    let (follower, _) = blocking::sync_channel(1);
    let parts = Parts {
        state: bank.state,
        log: Some(writer),
        clock: Arc::new(ManualClock::new(TIME_MICROS)),
        follower,
        durable: durable_sender,
    };
    let (store, _stopper) = event_store::start(parts).unwrap();
    let views = Arc::new(Views::new(Books::new(Register::default())));
    let limits = Limits::default();
    let reads = Reads::new(views, History::new(reader), durable, store.clone(), limits.call_time);
    let (_runs_on, stopping) = tokio::sync::watch::channel(false);
    let service = wire::Commands::new(limits, stopping);
    service.desk.set(Desk::new(store, Arc::new(reads)));
    service
}

/// The message that asks for a batch of transfers.
fn request_bytes(batch: &[Command], return_results: bool) -> Vec<u8> {
    let commands = batch.iter().map(|command| BatchCommand { command: Some(message(command)) });
    let request = ExecuteBatchRequest { commands: commands.collect(), return_results };
    request.encode_to_vec()
}

fn message(command: &Command) -> batch_command::Command {
    let Action::TransferMoney { parties, amount, .. } = &command.action else {
        panic!("only transfers are sent")
    };
    batch_command::Command::TransferMoney(TransferMoneyRequest {
        from_account_id: parties.from().to_string(),
        to_account_id: parties.to().to_string(),
        amount_minor: amount.minor(),
        ..TransferMoneyRequest::default()
    })
}
