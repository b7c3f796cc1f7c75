//! Micro benches: the hot path without gRPC, step by step.
//!
//! `cargo bench` runs all of them, `cargo bench -- decide` those whose name has it. Their times
//! are for comparing two versions on one quiet machine; what guards the hot path is
//! `tests/instructions/run`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that goes wrong here fails, which is its purpose"
)]

use std::sync::Arc;

use daybook::{
    domain::{Command, Register},
    event_store::{Entry, REQUEST_ID_WINDOW_DEFAULT},
    log::{
        FORMAT_VERSION, Group, LogWriter, Record,
        file::{self, Options, StdDisk},
        memory,
    },
    views::{Books, Fold},
};
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};

use self::bank::{BATCH_COMMANDS, Bank, Commands, LOG_ID, TIME_MICROS};

mod bank;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Few accounts, which the processor's caches hold, and many, which they do not.
const ACCOUNTS: [u64; 2] = [10_000, 1_000_000];
/// The accounts and transfers of a log that is folded.
const LOG_ACCOUNTS: u64 = 10_000;
const LOG_TRANSFERS: usize = 100_000;

fn main() {
    divan::main();
}

/// Decides batches of commands on a state of so many accounts.
fn decide(
    bencher: Bencher<'_, '_>,
    accounts: u64,
    batch: impl Fn(&mut Commands, usize) -> Vec<Command>,
) {
    let mut commands = Commands::new(accounts);
    let mut bank = Bank::open(&commands);
    bencher
        .counter(ItemsCount::new(BATCH_COMMANDS))
        .with_inputs(|| batch(&mut commands, BATCH_COMMANDS))
        .bench_local_refs(|batch| {
            for command in batch {
                divan::black_box(bank.decide(command));
            }
        });
}

#[divan::bench(args = ACCOUNTS)]
fn decide_transfers(bencher: Bencher<'_, '_>, accounts: u64) {
    decide(bencher, accounts, Commands::transfers);
}

#[divan::bench(args = ACCOUNTS)]
fn decide_deposits(bencher: Bencher<'_, '_>, accounts: u64) {
    decide(bencher, accounts, Commands::deposits);
}

/// The entries of one batch of transfers.
fn transfer_entries() -> Vec<Entry> {
    let mut commands = Commands::new(LOG_ACCOUNTS);
    let mut bank = Bank::open(&commands);
    commands.transfers(BATCH_COMMANDS).iter().map(|command| bank.decide(command).clone()).collect()
}

/// Encodes entries one after another; gives all their bytes.
fn encode_all<'a>(entries: &[Entry], bytes: &'a mut Vec<u8>) -> &'a [u8] {
    let codec = bank::codec();
    bytes.clear();
    for entry in entries {
        codec.encode(entry, bytes);
    }
    bytes
}

#[divan::bench]
fn encode_transfers(bencher: Bencher<'_, '_>) {
    let entries = transfer_entries();
    let mut bytes = Vec::new();
    let byte_count = encode_all(&entries, &mut bytes).len();
    bencher
        .counter(ItemsCount::new(entries.len()))
        .counter(BytesCount::new(byte_count))
        .bench_local(|| encode_all(&entries, &mut bytes).len());
}

#[divan::bench]
fn decode_transfers(bencher: Bencher<'_, '_>) {
    let codec = bank::codec();
    let entries = transfer_entries();
    let records: Vec<(u64, Vec<u8>)> = entries
        .iter()
        .map(|entry| {
            let mut bytes = Vec::new();
            codec.encode(entry, &mut bytes);
            (entry.first_position, bytes)
        })
        .collect();
    let byte_count: usize = records.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut entry = Entry::default();
    bencher
        .counter(ItemsCount::new(records.len()))
        .counter(BytesCount::new(byte_count))
        .bench_local(|| {
            for (first_position, bytes) in &records {
                let (format, first_position) = (FORMAT_VERSION, *first_position);
                let record = Record { format, first_position, event_count: 1, bytes };
                codec.decode_into(&record, &mut entry).unwrap();
                divan::black_box(&entry);
            }
        });
}

/// Appends groups of one batch of transfers to an empty log. Before each, `prepare` may see to
/// the log without being measured.
fn append(bencher: Bencher<'_, '_>, writer: &mut dyn LogWriter, mut prepare: impl FnMut()) {
    let mut commands = Commands::new(LOG_ACCOUNTS);
    let mut bank = Bank::new();
    bank.open_in(&commands, writer);
    bencher
        .counter(ItemsCount::new(BATCH_COMMANDS))
        .with_inputs(|| {
            prepare();
            bank.decide_group(&commands.transfers(BATCH_COMMANDS))
        })
        .input_counter(|group: &Group| BytesCount::new(group.byte_count()))
        .bench_local_refs(|group| writer.append(group).unwrap());
}

#[divan::bench]
fn append_memory(bencher: Bencher<'_, '_>) {
    let (mut writer, _reader) = memory::open(LOG_ID);
    append(bencher, &mut *writer, || ());
}

/// Durable: each append ends with a sync of the disk that the temporary directory is on. One
/// group at a time, as a sample is there before the next is made ready.
#[divan::bench(sample_size = 1)]
fn append_file(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(StdDisk::open(directory.path()).unwrap());
    let options = Options::new(LOG_ID, TIME_MICROS);
    let opened = file::open(disk, &options, &mut |_, _| Ok(())).unwrap();
    let mut preparer = opened.preparer.unwrap();
    append(bencher, &mut *opened.writer.unwrap(), || {
        preparer.prepare().unwrap();
    });
}

#[divan::bench]
fn fold_at_start(bencher: Bencher<'_, '_>) {
    let groups = Bank::groups(&mut Commands::new(LOG_ACCOUNTS), LOG_TRANSFERS);
    let blocks = bank::blocks(&groups);
    let byte_count: usize = blocks.iter().map(|block| block.byte_count()).sum();
    bencher
        .counter(ItemsCount::new(event_count(&groups)))
        .counter(BytesCount::new(byte_count))
        .bench_local(|| {
            let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
            for block in &blocks {
                fold.add(&LOG_ID, block).unwrap();
            }
            fold.finish(LOG_ID)
        });
}

#[divan::bench]
fn apply_to_views(bencher: Bencher<'_, '_>) {
    let groups = Bank::groups(&mut Commands::new(LOG_ACCOUNTS), LOG_TRANSFERS);
    let entries = bank::entries(&groups);
    bencher.counter(ItemsCount::new(event_count(&groups))).bench_local(|| {
        let mut books = Books::new(Register::default());
        for entry in &entries {
            books.apply(entry).unwrap();
        }
        books
    });
}

/// How many events a log of these groups has.
fn event_count(groups: &[Group]) -> u64 {
    groups.last().unwrap().next_position() - 1
}
