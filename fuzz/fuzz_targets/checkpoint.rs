//! The checkpoint: a ledger is written with a checkpoint in its course, the checkpoint's file is
//! changed, and the ledger is recovered from it. It is what the log adds up to, or the checkpoint
//! is refused. With checksums made to match again it may lie, and nothing may panic.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use daybook::{
    event_store::{Entry, History, State, Verdict},
    log::file::{CHECKPOINT_FILE, Directory, Opened, Options},
    views::{AccountFilter, AccountView, Books, Fold, Totals, Views, save},
};
use daybook_fuzz::{
    bank::{
        ACCOUNTS, LOG_ID, REQUEST_ID_WINDOW, SAGAS, Step, TIME_MICROS, account_id, group_of,
        saga_id,
    },
    change::{Change, fix_checkpoint},
    disk::MemoryDisk,
    has_canary,
};
use libfuzzer_sys::fuzz_target;

/// How many groups come before the checkpoint, and after it, at most.
const GROUPS_MAX: usize = 6;
/// How many commands a group has at most, so that a small segment takes it.
const STEPS_MAX: usize = 6;
/// More than all accounts.
const LIMIT: usize = 100;

#[derive(Arbitrary, Debug)]
struct Input {
    before: Vec<Vec<Step>>,
    after: Vec<Vec<Step>>,
    changes: Vec<Change>,
    is_forged: bool,
    onward: Vec<Step>,
}

/// A ledger that was recovered.
struct Recovered {
    state: State,
    books: Books,
    opened: Opened,
}

/// What a ledger says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    next_position: u64,
    time_micros: i64,
    totals: Totals,
    accounts: Vec<AccountView>,
    newest_sagas: Vec<u64>,
    named_sagas: Vec<Option<u64>>,
    /// What commands do that come next.
    onward: Vec<String>,
}

fuzz_target!(|input: Input| {
    let disk = MemoryDisk::default();
    let mut ledger = recover(&disk, false).expect("a new log opens");
    append(&mut ledger, &input.before);
    drop(ledger);
    let Recovered { mut state, books, mut opened } = recover(&disk, false).expect("it opens");
    save(&Views::new(books), &opened.checkpoints, &mut |_| true).expect("memory does not fail");
    append_to(&mut opened, &mut state, &input.after);
    drop(opened);

    let mut image = disk.image();
    // Planted: the log is said to end before what came after the checkpoint.
    let mut expected = recover(&MemoryDisk::of(&image), false).expect("it opens");
    if has_canary() && input.changes.is_empty() && state.next_position() > 4 {
        let empty = MemoryDisk::default();
        expected = recover(&empty, false).expect("a new log opens");
    }
    let expected = tell(&mut expected, &input.onward);
    if let Some(checkpoint) = image.get_mut(CHECKPOINT_FILE) {
        for change in &input.changes {
            change.apply(checkpoint);
        }
        if input.is_forged {
            fix_checkpoint(checkpoint);
        }
    }
    let Some(mut recovered) = recover(&MemoryDisk::of(&image), true) else { return };
    let told = tell(&mut recovered, &input.onward);
    if !input.is_forged {
        assert!(recovered.opened.damage.is_none(), "{:?}", recovered.opened.damage);
        assert_eq!(told, expected);
    }
});

fn options() -> Options {
    let segment_bytes = 16 * 1024;
    Options {
        first_segment_bytes: segment_bytes,
        segment_bytes,
        group_bytes_max: 4 * 1024,
        ..Options::new(LOG_ID, TIME_MICROS)
    }
}

/// Recovers as a server does; `None` when the checkpoint is refused, which is then to be followed
/// by reading all of the log.
fn recover(disk: &MemoryDisk, with_checkpoint: bool) -> Option<Recovered> {
    let directory = Directory::take(Arc::new(disk.clone()), &options()).expect("it is a log");
    let (mut fold, mut from) = (Fold::new(REQUEST_ID_WINDOW), None);
    if with_checkpoint {
        let mut checkpoint = directory.checkpoint().ok()??;
        fold = Fold::resume(directory.log_id(), REQUEST_ID_WINDOW, &mut checkpoint).ok()?;
        from = Some(checkpoint.resume());
    }
    let opened = directory.open(from, &mut |log_id, block| {
        fold.add(log_id, block).map_err(|wrong| wrong.to_string())
    });
    let opened = opened.ok()?;
    let (mut state, books) = fold.finish(LOG_ID);
    if let Some(from) = from {
        state.recall(&History::new(Arc::clone(&opened.reader)), from.position()).ok()?;
    }
    Some(Recovered { state, books, opened })
}

fn append(ledger: &mut Recovered, groups: &[Vec<Step>]) {
    append_to(&mut ledger.opened, &mut ledger.state, groups);
}

fn append_to(opened: &mut Opened, state: &mut State, groups: &[Vec<Step>]) {
    let (Some(writer), Some(preparer)) = (&mut opened.writer, &mut opened.preparer) else {
        panic!("a whole log can be written")
    };
    for steps in groups.iter().take(GROUPS_MAX) {
        let group = group_of(state, &steps[..steps.len().min(STEPS_MAX)]);
        if group.is_empty() {
            continue;
        }
        if !writer.has_room() {
            preparer.prepare().expect("memory does not fail");
        }
        writer.append(&group).expect("there is room");
    }
}

fn tell(ledger: &mut Recovered, onward: &[Step]) -> Told {
    let Recovered { state, books, opened: _ } = ledger;
    let named_saga = |number| books.locate_saga(saga_id(number), state.codec().ids());
    let told = Told {
        next_position: state.next_position(),
        time_micros: books.time_micros(),
        totals: books.totals(),
        accounts: books.accounts(&AccountFilter::default(), 0, LIMIT).accounts,
        newest_sagas: books.newest_sagas(None),
        named_sagas: (0..SAGAS).map(named_saga).collect(),
        onward: Vec::new(),
    };
    for view in &told.accounts {
        let account = state.account(view.account.id());
        assert_eq!(account.as_ref(), Some(&view.account), "state and books agree");
    }
    let open = (0..ACCOUNTS).filter(|number| state.account(account_id(*number)).is_some());
    assert!(open.count() <= told.accounts.len());
    let mut entry = Entry::default();
    let commands = onward.iter().filter_map(Step::command);
    let decide = |command| match state.decide(&command, None, TIME_MICROS, &mut entry) {
        Verdict::Accepted => format!("{entry:?}"),
        verdict @ (Verdict::Replayed { .. } | Verdict::Refused(_)) => format!("{verdict:?}"),
    };
    Told { onward: commands.map(decide).collect(), ..told }
}
