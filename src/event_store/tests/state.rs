//! The state: live and replayed it is the same, and what does not follow is refused.

use super::*;

#[test]
fn replay_gives_the_state_that_deciding_left() {
    for seed in 1..10 {
        let mut live = state();
        let recorded = entries(&mut live, seed, 3_000);
        let mut replayed = state();
        for entry in &recorded {
            replayed.replay(entry).unwrap();
        }
        assert_eq!(live.next_position(), replayed.next_position());
        for number in 0..12 {
            let find = |state: &State| state.account(account(number));
            assert_eq!(find(&live), find(&replayed));
        }
        // Both go on alike: the windows, the chains and the sagas are the same, too.
        let mut dice = Dice(seed + 1_000);
        for _ in 0..500 {
            let command = dice.command();
            let one = format!("{:?}", decide(&mut live, &command, TIME + 5_000));
            let other = format!("{:?}", decide(&mut replayed, &command, TIME + 5_000));
            assert_eq!(one, other, "seed {seed}");
        }
    }
}

#[test]
fn an_entry_that_does_not_follow_is_refused() {
    let recorded = entries(&mut state(), 5, 500);
    let last = recorded.last().unwrap();
    let refused = |change: &dyn Fn(&mut Entry)| {
        let mut entry = last.clone();
        change(&mut entry);
        let mut state = state();
        for entry in &recorded[..recorded.len() - 1] {
            state.replay(entry).unwrap();
        }
        assert!(state.replay(&entry).is_err(), "{entry:?}");
    };
    refused(&|entry| entry.first_position += 1);
    refused(&|entry| entry.time_micros = TIME - 1);
    refused(&|entry| entry.accounts[0].number += 1);
    refused(&|entry| entry.accounts[0].version += 1);
    refused(&|entry| entry.accounts[0].balance = Balance::new(123_456).unwrap());
    refused(&|entry| entry.accounts[0].link.skip += 1);
    refused(&|entry| entry.accounts[0].link.previous -= 1);
    refused(&|entry| entry.accounts[0].id = account(77));
}

#[test]
fn a_request_id_is_remembered_within_its_window_and_forgotten_after() {
    let mut state = state();
    decide(&mut state, &open(1, 0), TIME);
    let mut repeated = deposit(1, 5);
    repeated.request_id = request(1);
    assert!(matches!(decide(&mut state, &repeated, TIME), Decided::Accepted(_)));
    for _ in 0..1_023 {
        assert!(matches!(decide(&mut state, &repeated, TIME), Decided::Replayed { position: 2 }));
        assert!(matches!(decide(&mut state, &deposit(1, 1), TIME), Decided::Accepted(_)));
    }
    assert!(matches!(decide(&mut state, &repeated, TIME), Decided::Replayed { position: 2 }));
    assert!(matches!(decide(&mut state, &deposit(1, 1), TIME), Decided::Accepted(_)));
    assert!(
        matches!(decide(&mut state, &repeated, TIME), Decided::Accepted(_)),
        "1,024 positions ago"
    );
}

#[test]
fn a_refused_command_is_judged_anew_when_it_is_repeated() {
    let mut state = state();
    let mut command = deposit(1, 5);
    command.request_id = request(1);
    let refused = decide(&mut state, &command, TIME);
    let missing = Refusal::AccountNotFound { account_id: account(1) };
    assert!(matches!(refused, Decided::Refused(refusal) if refusal == missing));
    decide(&mut state, &open(1, 0), TIME);
    assert!(matches!(decide(&mut state, &command, TIME), Decided::Accepted(_)));
}

#[test]
fn time_never_goes_back() {
    let mut state = state();
    let time = |verdict| match verdict {
        Decided::Accepted(entry) => entry.time_micros,
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!(time(decide(&mut state, &open(1, 0), TIME)), TIME);
    assert_eq!(time(decide(&mut state, &deposit(1, 1), TIME - 1_000_000)), TIME);
    assert_eq!(time(decide(&mut state, &deposit(1, 1), TIME + 1)), TIME + 1);
}

#[test]
fn saga_ids_of_the_server_are_never_given_twice() {
    let mut state = state();
    decide(&mut state, &open(1, 100), TIME);
    decide(&mut state, &open(2, 100), TIME);
    // A caller who guesses the id that the next transfer would get may not take it; with an earlier
    // version that was accepted.
    let guessed = SagaId::new(EventIds::new(LOG_ID).at(3, TIME));
    for position in [3, 4, 1_000_000, (1 << 40) - 1] {
        let guessed = SagaId::new(EventIds::new(LOG_ID).at(position, TIME));
        let refused = decide(&mut state, &transfer(Some(guessed), 1, 2, 1), TIME);
        assert!(matches!(refused, Decided::Refused(Refusal::SagaExists { .. })), "{refused:?}");
    }
    state.give_back_saga(guessed);
    let Decided::Accepted(own) = decide(&mut state, &transfer(None, 1, 2, 1), TIME) else {
        panic!("a transfer is accepted")
    };
    assert_ne!(own.saga.unwrap().id, guessed);
    // The id of an event that is there cannot be chosen.
    for taken in [guessed, own.saga.unwrap().id] {
        let refused = decide(&mut state, &transfer(Some(taken), 1, 2, 1), TIME);
        assert!(matches!(refused, Decided::Refused(Refusal::SagaExists { .. })), "{refused:?}");
    }
}

#[test]
fn only_the_same_command_is_answered_by_an_entry() {
    let mut state = state();
    decide(&mut state, &open(1, 100), TIME);
    decide(&mut state, &open(2, 100), TIME);
    let saga_id = Some(SagaId::new(Uuid::from_u128(5)));
    let recorded = transfer(saga_id, 1, 2, 7);
    let Decided::Accepted(entry) = decide(&mut state, &recorded, TIME) else {
        panic!("a transfer is accepted")
    };
    assert!(entry.answers(&recorded));
    let mut with_request_id = recorded.clone();
    with_request_id.request_id = request(1);
    let others = [
        with_request_id,
        transfer(None, 1, 2, 7),
        transfer(Some(SagaId::new(Uuid::from_u128(6))), 1, 2, 7),
        transfer(saga_id, 2, 1, 7),
        transfer(saga_id, 1, 3, 7),
        transfer(saga_id, 1, 2, 8),
        deposit(1, 7),
        withdraw(1, 7),
        close(1),
        open(1, 7),
    ];
    for other in others {
        assert!(!entry.answers(&other), "{other:?}");
    }
}

/// A request id that was used again after it had been forgotten, where more is remembered now.
#[test]
fn a_larger_window_remembers_the_newer_of_two_uses() {
    let mut live = state();
    let mut recorded = Vec::new();
    let mut go_on = |command: &Command| {
        let Decided::Accepted(entry) = decide(&mut live, command, TIME) else { panic!() };
        recorded.push(entry);
    };
    let mut repeated = deposit(1, 5);
    repeated.request_id = request(1);
    go_on(&open(1, 0));
    go_on(&repeated);
    (0..1_500).for_each(|_| go_on(&deposit(1, 1)));
    go_on(&repeated);
    (0..600).for_each(|_| go_on(&deposit(1, 1)));
    let mut larger = State::new(codec(), 2_000);
    for entry in &recorded {
        larger.replay(entry).unwrap();
    }
    let again = decide(&mut larger, &repeated, TIME);
    assert!(matches!(again, Decided::Replayed { position: 1_503 }), "carried out twice: {again:?}");
}
