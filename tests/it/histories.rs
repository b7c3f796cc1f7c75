//! Histories: many clients call the real binary while it is paused and killed; what each of them
//! asked and was told, and when, must be what one ledger does that carries out one thing after
//! another.
//!
//! `DAYBOOK_TEST_OPERATIONS` sets how much is done between two kills, `DAYBOOK_TEST_KILLS` how
//! often the server is killed, `DAYBOOK_TEST_SEED` by which chance. With `DAYBOOK_TEST_HISTORY`
//! the history is written to that file without any position, for `tests/checker`.

use std::time::Instant;

use self::{books::Books, positional::Report, run::Run};
use crate::crash::{random::Random, setting};

mod books;
mod client;
mod doctored;
mod export;
mod operation;
mod pool;
mod positional;
mod reads;
mod replay;
mod run;
mod tails;

/// How often the server is killed unless told otherwise.
const KILLS: u64 = 5;
/// How many operations there are between two kills unless told otherwise.
const OPERATIONS: u64 = 300;

/// Intent: whatever the clients see, across kills and pauses, is one strict order that agrees with
/// real time; every command that was acknowledged took effect once, and no other; money that only
/// moves is always the same; and tails tell every event once.
#[tokio::test]
async fn histories_of_clients_are_one_strict_order_across_kills() {
    let kills = setting("DAYBOOK_TEST_KILLS").unwrap_or(KILLS);
    let operations = setting("DAYBOOK_TEST_OPERATIONS").unwrap_or(OPERATIONS);
    let seed = setting("DAYBOOK_TEST_SEED").unwrap_or_else(Random::fresh_seed);
    println!("seed {seed}");
    let begun = Instant::now();
    let mut run = Run::begin(seed).await;
    for _ in 0..kills {
        run.cycle(usize::try_from(operations).expect("a count")).await;
    }
    let run::Outcome { history, log, tails, tally, bank, bank_total } = run.end().await;
    let ran = begun.elapsed().as_secs_f32();

    let books = Books::fold(log).expect("the log adds up");
    let report = positional::check(&history, &books).expect("one strict order");
    let is_bank = |id: &str| bank.iter().any(|own| own == id);
    let sums = reads::check_sums(&history, bank_total, |at| books.in_flight(at, is_bank));
    let sums = sums.expect("the bank holds what it held");
    let delivered = tails.iter().map(|tail| tails::check(tail, &books.events));
    let delivered: usize = delivered.sum::<Result<_, _>>().expect("tails tell the log");
    let resumes: usize = tails.iter().map(|tail| tail.resumes).sum();
    export::write_if_asked(&history, &books).expect("the history is written");

    let Report { operations, commands, repeats, replayed, refused, unknown, .. } = report;
    let Report { found, not_found, min_position_reads, as_of_reads, .. } = report;
    println!(
        "P3 P4 P5 P8 P12: operations {operations}, kills {}, pauses {}, commands {commands}, \
         repeats {repeats}, replayed {replayed}, refused {refused}, unknown {unknown} \
         ({found} had happened, {not_found} not), double effects 0, anomalies 0, undecided 0, \
         reads at a position {min_position_reads}, as of {as_of_reads}, sums {sums}, \
         positions {}, delivered {delivered}, resumes {resumes}, seed {seed}, \
         {ran:.1} s + {:.1} s",
        tally.kills,
        tally.pauses,
        books.head(),
        begun.elapsed().as_secs_f32() - ran,
    );
    assert!(tally.kills >= 1 && tally.pauses >= tally.kills, "too little happened: {tally:?}");
    assert!(unknown >= tally.kills && found > 0 && not_found > 0, "the kills hit little");
    assert!(repeats * 7 >= commands && replayed * 10 >= commands, "too few repeats");
    assert!(refused * 50 >= commands, "too few refusals");
    assert!(sums * 30 >= operations, "too few sums");
    assert!(min_position_reads * 30 >= operations && as_of_reads * 100 >= operations);
    assert!(resumes >= tally.kills * tails.len() / 2, "too few tails went on");
}
