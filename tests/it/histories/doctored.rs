//! The checks can fail: histories in which one thing is wrong, and what each check says of it.

use daybook::proto::{
    Account, AccountState, DepositMoneyRequest, Event, EventType, GetAccountRequest,
    ListAccountsRequest, OpenAccountRequest, Saga, SagaState, TransferMoneyRequest,
    WithdrawMoneyRequest, batch_command::Command, event::Payload, get_account_request::AsOf,
};
use tonic::Code;

use super::{
    books::{Books, decide},
    operation::{BANK, Deed, Operation, key},
    positional, reads,
    tails::{self, Tail, Told},
};
use crate::crash::call::{Answer, Refusal, Verdict};

/// A history that is as it should be, and its log; one operation after another.
#[derive(Clone, Debug, Default)]
struct Tale {
    log: Vec<Event>,
    history: Vec<Operation>,
    now: u64,
}

impl Tale {
    /// Ada has 70 and Bob 30, of which 20 came from Ada. Somebody looked in between.
    fn new() -> Self {
        let mut tale = Self::default();
        tale.command(open("ada", 100));
        tale.command(open("bob", 10));
        tale.read("ada", None);
        tale.command(withdraw("ada", "first", 10));
        tale.command(transfer("ada", "bob", "second", 20));
        tale.command(withdraw("bob", "third", 1_000));
        tale.read("ada", None);
        tale.read("bob", Some(2));
        tale.check().expect("nothing is wrong");
        tale
    }

    fn books(&self) -> Result<Books, String> {
        Books::fold(self.log.clone())
    }

    fn check(&self) -> Result<positional::Report, String> {
        positional::check(&self.history, &self.books()?)
    }

    /// Carries a command out, as the model has it.
    fn command(&mut self, command: Command) {
        let books = self.books().expect("the log adds up");
        let verdict = match decide(&command, |id| books.state(id, books.head())) {
            Ok(payloads) => {
                let before = self.log.len();
                for (account_id, payload) in payloads {
                    self.record(&command, account_id, payload);
                }
                let answer = answer(&command, &self.log[before..]);
                Verdict::Recorded { answer, replayed: false }
            }
            Err(reason) => {
                let (code, reason) = (Code::FailedPrecondition, reason.to_owned());
                Verdict::Refused(Refusal { code, reason, actual_version: None })
            }
        };
        self.note(Deed::Command { command, verdict });
    }

    fn record(&mut self, command: &Command, account_id: String, payload: Payload) {
        let versions = self.log.iter().filter(|event| event.account_id == account_id).count();
        let is_saga = matches!(command, Command::TransferMoney(_));
        self.log.push(Event {
            position: i64::try_from(self.log.len()).expect("a short log") + 1,
            event_id: format!("event {}", self.log.len()),
            account_id,
            version: i64::try_from(versions).expect("a short log") + 1,
            saga_id: if is_saga { format!("saga of {}", key(command)) } else { String::new() },
            request_id: key(command).to_owned(),
            payload: Some(payload),
            ..Event::default()
        });
    }

    fn read(&mut self, id: &str, as_of: Option<i64>) {
        let books = self.books().expect("the log adds up");
        let head = as_of.unwrap_or(books.head());
        let state = books.state(id, head);
        let account = Account {
            account_id: id.to_owned(),
            balance_minor: state.balance,
            version: state.version,
            state: AccountState::Active.into(),
            ..Account::default()
        };
        let position = as_of.and_then(|_| books.position_of(id, state.version)).unwrap_or(head);
        let as_of = as_of.map(AsOf::AsOfPosition);
        let request = GetAccountRequest { account_id: id.to_owned(), as_of, min_position: None };
        self.note(Deed::Account { request, told: Some((account, position)) });
    }

    fn note(&mut self, deed: Deed) {
        let (called, returned) = (self.now + 1, Some(self.now + 2));
        self.now += 2;
        self.history.push(Operation { called, returned, window: 0, deed });
    }

    /// The verdict on the command with a key.
    fn verdict(&mut self, of: &str) -> &mut Verdict {
        let verdicts = self.history.iter_mut().filter_map(|operation| match &mut operation.deed {
            Deed::Command { command, verdict } if key(command) == of => Some(verdict),
            _ => None,
        });
        verdicts.last().expect("the command was sent")
    }

    fn repeat(&mut self, of: &str, verdict: Verdict) {
        let found = self.history.iter().find_map(|operation| match &operation.deed {
            Deed::Command { command, .. } if key(command) == of => Some(command.clone()),
            _ => None,
        });
        let command = found.expect("the command was sent");
        self.note(Deed::Command { command, verdict });
    }
}

fn answer(command: &Command, events: &[Event]) -> Answer {
    let (first, last) = (&events[0], &events[events.len() - 1]);
    let Command::TransferMoney(asked) = command else {
        return Answer::Event(Box::new(first.clone()));
    };
    Answer::Completed(Box::new(Saga {
        saga_id: last.saga_id.clone(),
        state: SagaState::Completed.into(),
        from_account_id: asked.from_account_id.clone(),
        to_account_id: asked.to_account_id.clone(),
        amount_minor: asked.amount_minor,
        position: last.position,
        ..Saga::default()
    }))
}

fn open(id: &str, initial_balance_minor: i64) -> Command {
    Command::OpenAccount(OpenAccountRequest {
        account_id: id.to_owned(),
        initial_balance_minor,
        request_id: format!("open {id}"),
        ..OpenAccountRequest::default()
    })
}

fn deposit(id: &str, key: &str, amount_minor: i64) -> Command {
    Command::DepositMoney(DepositMoneyRequest {
        account_id: id.to_owned(),
        amount_minor,
        request_id: key.to_owned(),
        ..DepositMoneyRequest::default()
    })
}

fn withdraw(id: &str, key: &str, amount_minor: i64) -> Command {
    Command::WithdrawMoney(WithdrawMoneyRequest {
        account_id: id.to_owned(),
        amount_minor,
        request_id: key.to_owned(),
        ..WithdrawMoneyRequest::default()
    })
}

fn transfer(from: &str, to: &str, key: &str, amount_minor: i64) -> Command {
    Command::TransferMoney(TransferMoneyRequest {
        from_account_id: from.to_owned(),
        to_account_id: to.to_owned(),
        amount_minor,
        request_id: key.to_owned(),
        ..TransferMoneyRequest::default()
    })
}

/// Makes one thing wrong, and sees that the check finds it.
fn rejects(doctor: impl FnOnce(&mut Tale), expected: &str) {
    let mut tale = Tale::new();
    doctor(&mut tale);
    let found = tale.check().expect_err(expected);
    assert!(found.contains(expected), "{expected}: {found}");
}

/// Intent: a read of the past that is answered as the present is found.
#[test]
fn a_stale_read_is_rejected() {
    rejects(
        |tale| {
            tale.command(deposit("ada", "new", 5));
            let old = tale.history[2].deed.clone();
            tale.note(old);
        },
        "stale: true at 2, behind 9",
    );
    rejects(
        |tale| {
            let Deed::Account { request, .. } = &mut tale.history[6].deed else { panic!() };
            request.min_position = Some(9);
        },
        "stale: true at 8, behind 9",
    );
    rejects(
        |tale| {
            let Deed::Account { told, .. } = &mut tale.history[6].deed else { panic!() };
            told.as_mut().expect("it was told").0.balance_minor += 1;
        },
        "and told was",
    );
    rejects(
        |tale| {
            let Deed::Account { told, .. } = &mut tale.history[7].deed else { panic!() };
            told.as_mut().expect("it was told").0.balance_minor += 1;
        },
        "and told was",
    );
    rejects(
        |tale| {
            let Deed::Account { told, .. } = &mut tale.history[6].deed else { panic!() };
            *told = None;
        },
        "not found, and there",
    );
}

/// Intent: what is half done must not be seen, and what is not durable neither.
#[test]
fn a_read_of_what_is_not_there_is_rejected() {
    let tailed = |position| move |tale: &mut Tale| tale.note(Deed::Tailed { position });
    rejects(tailed(6), "stale");
    rejects(tailed(9), "true at 9, and the log ends at 8");
    rejects(
        |tale| {
            let operation = Operation { called: 0, ..tale.history[0].clone() };
            tale.history.push(Operation { deed: Deed::Tailed { position: 6 }, ..operation });
        },
        "in the middle of a command",
    );
}

/// Intent: a deposit that was acknowledged and is gone is found, whatever else came.
#[test]
fn a_lost_command_is_rejected() {
    let lose = |tale: &mut Tale| {
        tale.command(deposit("ada", "lost", 5));
        tale.log.pop();
    };
    rejects(lose, "acknowledged, and not in the log");
    rejects(|tale| *tale.verdict("first") = refusal("INSUFFICIENT_FUNDS"), "refused, and in the");
    rejects(|tale| tale.log[2].request_id = "nobody".to_owned(), "nobody asked for");
}

/// Intent: a key that took effect twice is found, and so is an answer that says so.
#[test]
fn a_doubled_request_id_is_rejected() {
    rejects(
        |tale| {
            let command = withdraw("ada", "first", 10);
            let payloads = decide(&command, |id| tale.books().expect("a log").state(id, 8));
            for (id, payload) in payloads.expect("there is enough") {
                tale.record(&command, id, payload);
            }
        },
        "took effect twice, at 3 and 9",
    );
    let again = |tale: &mut Tale| {
        let verdict = tale.verdict("first").clone();
        tale.repeat("first", verdict);
    };
    rejects(again, "carried out 2 times");
    rejects(
        |tale| {
            let Verdict::Recorded { replayed, .. } = tale.verdict("first") else { panic!() };
            *replayed = true;
        },
        "a repeat of nothing",
    );
    rejects(|tale| tale.repeat("first", refusal("INSUFFICIENT_FUNDS")), "right at no moment");
}

/// Intent: the order of the positions must be one that real time allows.
#[test]
fn an_answer_out_of_order_is_rejected() {
    rejects(
        |tale| {
            // The last of both commands was called after the first one of them had returned.
            let (first, last) = (tale.history[0].clone(), tale.history[1].clone());
            tale.history[0].called = last.called;
            tale.history[0].returned = last.returned;
            (tale.history[1].called, tale.history[1].returned) = (first.called, first.returned);
        },
        "at 1, ahead of 2, and called later",
    );
    // Without an answer, it may have happened at any time after the call; but not before.
    let unanswered = |called: u64| {
        move |tale: &mut Tale| {
            *tale.verdict("first") = Verdict::Unknown;
            tale.history[3].returned = None;
            tale.history[3].called = called;
        }
    };
    let mut tale = Tale::new();
    unanswered(tale.history[3].called)(&mut tale);
    let report = tale.check().expect("it may have happened then");
    assert_eq!((report.unknown, report.found, report.not_found), (1, 1, 0));
    rejects(unanswered(1_000), "at 3, ahead of 8, and called later");
}

/// Intent: a refusal must have been right at some moment while it was decided.
#[test]
fn a_refusal_without_a_reason_is_rejected() {
    rejects(|tale| *tale.verdict("third") = refusal("ACCOUNT_CLOSED"), "right at no moment");
    rejects(
        |tale| {
            let reason = "INSUFFICIENT_FUNDS".to_owned();
            let code = Code::FailedPrecondition;
            let refusal = Refusal { code, reason, actual_version: Some(9) };
            *tale.verdict("third") = Verdict::Refused(refusal);
        },
        "right at no moment",
    );
}

fn refusal(reason: &str) -> Verdict {
    let (code, reason) = (Code::FailedPrecondition, reason.to_owned());
    Verdict::Refused(Refusal { code, reason, actual_version: None })
}

/// Intent: an effect that is not what was asked for is found.
#[test]
fn another_effect_is_rejected() {
    rejects(
        |tale| {
            tale.command(deposit("ada", "more", 5));
            let Some(Payload::MoneyDeposited(money)) = &mut tale.log[8].payload else { panic!() };
            (money.amount_minor, money.balance_minor) = (6, 76);
        },
        "should be and is",
    );
    rejects(
        |tale| {
            let Verdict::Recorded { answer, .. } = tale.verdict("second") else { panic!() };
            let Answer::Completed(saga) = answer else { panic!() };
            saga.position = 7;
        },
        "was answered",
    );
}

/// Intent: money that is made or lost at any position is found, in the log and in sums.
#[test]
fn a_sum_that_differs_is_rejected() {
    let folded = |doctor: fn(&mut Vec<Event>)| {
        let mut log = Tale::new().log;
        doctor(&mut log);
        Books::fold(log).expect_err("money was made or lost")
    };
    let made = folded(|log| {
        let Some(Payload::MoneyWithdrawn(money)) = &mut log[2].payload else { panic!() };
        money.balance_minor += 1;
    });
    assert!(made.contains("money was made or lost"), "{made}");
    let in_flight = folded(|log| {
        let Some(Payload::MoneyDeposited(money)) = &mut log[5].payload else { panic!() };
        (money.amount_minor, money.balance_minor) = (19, 29);
    });
    assert!(in_flight.contains("with its money in flight"), "{in_flight}");
    let cut = folded(|log| log.truncate(7));
    assert!(cut.contains("has no end"), "{cut}");

    let books = Tale::new().books().expect("the log adds up");
    let in_flight = |at| books.in_flight(at, |id| id == "ada");
    assert_eq!([4, 5, 6].map(in_flight), [0, 20, 0]);
    let mut tale = Tale::new();
    tale.note(Deed::Sum { position: 5, sum: 80 });
    let request = ListAccountsRequest { owner: BANK.to_owned(), ..Default::default() };
    let told = vec![Account { balance_minor: 100, ..Account::default() }];
    tale.note(Deed::Accounts { request, told, position: 8 });
    assert_eq!(reads::check_sums(&tale.history, 100, in_flight), Ok(2));
    assert!(reads::check_sums(&tale.history, 100, |_| 0).is_err(), "20 are in flight");
    assert!(reads::check_sums(&tale.history, 101, in_flight).is_err());
}

/// Intent: a tail that skips an event, tells it twice, out of order or not at all is found.
#[test]
fn a_tail_that_skips_is_rejected() {
    let log = Tale::new().log;
    let told = |position, events: &[usize]| {
        let events = events.iter().map(|at| (log[*at].position, tails::digest(&log[*at])));
        Told { position, events: events.collect() }
    };
    let tail = |messages: Vec<Told>| {
        let bob = Tail::new(vec!["bob".to_owned()], &[]);
        tails::check(&Tail { told: messages, ..bob }, &log)
    };
    assert_eq!(tail(vec![told(1, &[]), told(3, &[1]), told(8, &[5, 7])]), Ok(3));
    let wrong = [
        (vec![told(1, &[]), told(3, &[]), told(8, &[5, 7])], "from 1 on"),
        (vec![told(3, &[1]), told(8, &[1, 5, 7])], "from 3 on"),
        (vec![told(3, &[1]), told(8, &[7, 5])], "from 3 on"),
        (vec![told(3, &[1, 2]), told(8, &[5, 7])], "from 0 on"),
        (vec![told(3, &[1])], "ended at 3 of 8"),
        (vec![told(8, &[1, 5, 7]), told(3, &[])], "at 3 after 8"),
        (vec![told(9, &[1, 5, 7])], "at 9 after 0, of 8"),
    ];
    for (messages, expected) in wrong {
        let found = tail(messages).expect_err(expected);
        assert!(found.contains(expected), "{expected}: {found}");
    }
    let kinds = Tail::new(Vec::new(), &[EventType::MoneyWithdrawn]);
    let messages = vec![told(8, &[2, 4])];
    assert_eq!(tails::check(&Tail { told: messages, ..kinds }, &log), Ok(2));
    let mut other = told(8, &[1, 5, 7]);
    other.events[1].1 ^= 1;
    assert!(tail(vec![other]).is_err(), "another content");
}
