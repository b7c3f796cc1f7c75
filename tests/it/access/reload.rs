//! The files change while the server runs: it goes by what they say now, and nobody who has done
//! nothing notices.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use daybook::proto::{ExecuteStreamRequest, TailEventsRequest};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Bank, assert_denied, bearing, call, principal};
use crate::{
    issuer::{Issuer, jwk_set},
    service::{InBatch as _, deposit, get, reason},
};

/// How long a change may take to be seen: it is looked for each second.
const SEEN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Calls until the answer is as it should be.
async fn until<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, Status>, is_let_in: bool) {
    let begin = Instant::now();
    while call().await.is_ok() != is_let_in {
        assert!(begin.elapsed() < SEEN_WITHIN, "{what} has not been seen");
        sleep(LOOK_AGAIN).await;
    }
}

impl Bank {
    /// Replaces the credentials, and waits until one who is new in them is let in.
    async fn replace(&self, credentials: &str) {
        let mark = daybook::access::new_token().unwrap();
        let text = format!("{credentials}\n{}", principal(&mark, "reader", &mark, ""));
        self.files.write("credentials", &text);
        until("the change", async || self.call(&mark, get(&self.foreign)).await, true).await;
    }
}

#[tokio::test]
async fn a_load_goes_on_while_credentials_come_and_go() {
    // A writer calls without pause, while others are added and taken away, and its own token is
    // rotated with an overlap: no call of it fails. The one that was taken away is not let in.
    let bank = Bank::open().await;
    let (old, new) = (bank.writer.clone(), daybook::access::new_token().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let use_new = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let load = {
        let (client, id) = (bank.service.another().await, bank.foreign.clone());
        let (stop, use_new, calls) = (Arc::clone(&stop), Arc::clone(&use_new), Arc::clone(&calls));
        let (old, new) = (old.clone(), new.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let token = if use_new.load(Ordering::Relaxed) { &new } else { &old };
                call(&client, token, deposit(&id, 1)).await.unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let table = |tokens: &[&str]| {
        let hashes = tokens.iter().map(|token| daybook::access::hash_of(token).unwrap());
        let hashes = hashes.map(|hash| format!("\"{hash}\"")).collect::<Vec<_>>().join(", ");
        format!("[[principal]]\nname = \"writer\"\nrole = \"writer\"\ntoken_sha256 = [{hashes}]\n")
    };
    let reader = principal("reader", "reader", &bank.reader, "");
    bank.replace(&(table(&[&old, &new]) + &reader)).await;
    use_new.store(true, Ordering::Relaxed);
    let begun = calls.load(Ordering::Relaxed);
    while calls.load(Ordering::Relaxed) < begun + 2 {
        sleep(LOOK_AGAIN).await;
    }
    bank.call(&bank.reader, get(&bank.foreign)).await.unwrap();
    bank.replace(&table(&[&new])).await;
    for gone in [&old, &bank.reader, &bank.admin] {
        let answer = bank.call(gone, get(&bank.foreign)).await;
        assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", "a token that is gone");
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let account = bank.call(&new, get(&bank.foreign)).await.unwrap().account.unwrap();
    let deposits = i64::try_from(calls.load(Ordering::Relaxed)).unwrap();
    assert_eq!(account.balance_minor, 1_000 + deposits, "each was carried out once");
}

#[tokio::test]
async fn a_wrong_file_changes_nothing() {
    let bank = Bank::open().await;
    let path = bank.files.path("credentials");
    let good = fs::read_to_string(&path).unwrap();
    let wrong: [fn(&Bank, &str); 4] = [
        |bank, _| bank.files.write("credentials", "[[principal]]\nname = \"half"),
        |bank, _| fs::remove_file(bank.files.path("credentials")).unwrap(),
        |bank, good| {
            let new = principal("new", "admin", "new", "");
            bank.files.write("credentials", &(good.to_owned() + &new));
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(bank.files.path("credentials"), open).unwrap();
        },
        |bank, _| bank.files.write("keys", "{}"),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        change(&bank, &good);
        // Longer than it takes to be seen.
        sleep(Duration::from_millis(1_500)).await;
        for token in [&bank.reader, &bank.writer, &bank.admin] {
            let answer = bank.call(token, get(&bank.foreign)).await;
            assert!(answer.is_ok(), "change {number}: {answer:?}");
        }
        let answer = bank.call("new", get(&bank.foreign)).await;
        assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", "a wrong file");
    }
    // Once all is right again it counts.
    bank.files.write("keys", &jwk_set(&[&bank.issuer]));
    bank.replace(&principal("new", "admin", "new", "")).await;
    bank.call("new", get(&bank.foreign)).await.unwrap();
}

#[tokio::test]
async fn keys_of_an_issuer_are_replaced() {
    let bank = Bank::open().await;
    let other = Issuer::ed("other");
    let claims = super::claims("reader");
    let (old, new) = (bank.issuer.token(&claims), other.token(&claims));
    bank.call(&old, get(&bank.foreign)).await.unwrap();
    assert!(bank.call(&new, get(&bank.foreign)).await.is_err());
    bank.files.write("keys", &jwk_set(&[&other]));
    until("the new key", async || bank.call(&new, get(&bank.foreign)).await, true).await;
    let answer = bank.call(&old, get(&bank.foreign)).await;
    assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", "the old key");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let bank = Bank::open().await;
    let mut claims = super::claims("reader");
    // A minute's leeway is nearly over.
    claims["exp"] = (super::now() - 58).into();
    let request = bearing(&bank.issuer.token(&claims), TailEventsRequest::default());
    let tail = bank.service.queries.clone().tail_events(request).await.unwrap();
    let ended = timeout(SEEN_WITHIN, tail.into_inner().message()).await.expect("it ends");
    let ended = ended.unwrap_err();
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::Unauthenticated, "CREDENTIALS_INVALID")
    );
}

#[tokio::test]
async fn streams_end_when_something_is_taken_from_their_principal() {
    let bank = Bank::open().await;
    let keep = principal("admin", "admin", &bank.admin, "");
    let tail = |token: &str| {
        let request = bearing(token, TailEventsRequest::default());
        let mut queries = bank.service.queries.clone();
        async move { queries.tail_events(request).await.unwrap().into_inner() }
    };
    let (mut of_reader, mut of_admin) = (tail(&bank.reader).await, tail(&bank.admin).await);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = bearing(&bank.writer, ReceiverStream::new(receiver));
    let answers = bank.service.commands.clone().execute_stream(request).await.unwrap();
    let mut answers = answers.into_inner();
    let batch = || ExecuteStreamRequest {
        commands: vec![deposit(&bank.foreign, 1).in_batch()],
        return_results: false,
    };
    sender.send(batch()).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().accepted_count, 1);

    // The reader becomes limited, the writer a reader; the admin stays as it is.
    let own = format!("accounts = [\"{}\"]", bank.own[0]);
    let reader = principal("reader", "reader", &bank.reader, &own);
    let writer = principal("writer", "reader", &bank.writer, "");
    bank.replace(&(keep + &reader + &writer)).await;
    let ended = loop {
        match timeout(SEEN_WITHIN, of_reader.message()).await.expect("it ends") {
            Ok(message) => assert!(message.is_some(), "it says why it ends"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(reason(&ended), "CREDENTIALS_INVALID");
    let ended = timeout(SEEN_WITHIN, answers.message()).await.expect("it ends").unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(reason(&ended), "CREDENTIALS_INVALID");
    // What it sends now is not carried out.
    let _nobody_may_take_it = sender.send(batch()).await;
    let account = bank.call(&bank.admin, get(&bank.foreign)).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 1_001);

    bank.call(&bank.admin, deposit(&bank.own[0], 1)).await.unwrap();
    loop {
        let message = timeout(SEEN_WITHIN, of_admin.message()).await.expect("it goes on");
        let events = message.unwrap().unwrap().events;
        if events.iter().any(|event| event.account_id == bank.own[0]) {
            break;
        }
    }
}
