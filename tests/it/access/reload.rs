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

use daybook::proto::{Event, ExecuteStreamRequest, TailEventsRequest, TailEventsResponse};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

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

/// A principal with these tokens, and nothing else.
fn with_tokens(role: &str, tokens: &[&str]) -> String {
    let hashes = tokens.iter().map(|token| daybook::access::hash_of(token).unwrap());
    let hashes = hashes.map(|hash| format!("\"{hash}\"")).collect::<Vec<_>>().join(", ");
    format!("[[principal]]\nname = \"{role}\"\nrole = \"{role}\"\ntoken_sha256 = [{hashes}]\n")
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
    let reader = principal("reader", "reader", &bank.reader, "");
    bank.replace(&(with_tokens("writer", &[&old, &new]) + &reader)).await;
    use_new.store(true, Ordering::Relaxed);
    let begun = calls.load(Ordering::Relaxed);
    while calls.load(Ordering::Relaxed) < begun + 2 {
        sleep(LOOK_AGAIN).await;
    }
    bank.call(&bank.reader, get(&bank.foreign)).await.unwrap();
    bank.replace(&with_tokens("writer", &[&new])).await;
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
    assert_ends(&mut tail.into_inner(), "its token has expired").await;
}

/// That a stream ends soon, and says why.
pub(super) async fn assert_ends<T>(stream: &mut Streaming<T>, what: &str) {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "{what}: it says why it ends"),
                Err(status) => break status,
            }
        }
    };
    let ended = timeout(SEEN_WITHIN, ended).await;
    let ended = ended.unwrap_or_else(|_| panic!("{what}: it goes on"));
    let told = (ended.code(), reason(&ended));
    assert_eq!(told, (Code::Unauthenticated, "CREDENTIALS_INVALID".to_owned()), "{what}");
}

/// That a tail goes on as far as an event that is right.
async fn assert_tells(tail: &mut Streaming<TailEventsResponse>, is_right: impl Fn(&Event) -> bool) {
    let told =
        async { while !tail.message().await.unwrap().unwrap().events.iter().any(&is_right) {} };
    timeout(SEEN_WITHIN, told).await.expect("it goes on");
}

#[tokio::test]
async fn streams_of_a_key_end_when_it_is_taken_away() {
    // Of three keys one goes, one stays, and under the name of the third there is another one. The
    // principals stay as they are, and so does what they have opened with their tokens.
    let bank = Bank::open().await;
    let [rsa, ed] = &bank.other_keys;
    let tail = |token: String| {
        let request = bearing(&token, TailEventsRequest::default());
        let mut queries = bank.service.queries.clone();
        async move { queries.tail_events(request).await.unwrap().into_inner() }
    };
    let claims = super::claims("reader");
    let mut of_gone = tail(bank.issuer.token(&claims)).await;
    let mut of_kept = tail(rsa.token(&claims)).await;
    let mut by_itself = tail(bank.reader.clone()).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = bearing(&ed.token(&super::claims("writer")), ReceiverStream::new(receiver));
    let answers = bank.service.commands.clone().execute_stream(request).await.unwrap();
    let mut of_replaced = answers.into_inner();
    let batch = || ExecuteStreamRequest {
        commands: vec![deposit(&bank.foreign, 1).in_batch()],
        return_results: false,
    };
    sender.send(batch()).await.unwrap();
    assert_eq!(of_replaced.message().await.unwrap().unwrap().accepted_count, 1);

    bank.files.write("keys", &jwk_set(&[rsa, &Issuer::ed("ed")]));
    assert_ends(&mut of_gone, "its key is gone").await;
    assert_ends(&mut of_replaced, "another key has its name").await;
    // What it sends now is not carried out.
    let _nobody_may_take_it = sender.send(batch()).await;
    let account = bank.call(&bank.admin, get(&bank.foreign)).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 1_001);
    let event = bank.call(&bank.admin, deposit(&bank.own[0], 1)).await.unwrap().event.unwrap();
    for going_on in [&mut of_kept, &mut by_itself] {
        assert_tells(going_on, |told| told.position == event.position).await;
    }
}

#[tokio::test]
async fn a_reflection_ends_when_its_principal_goes() {
    let bank = Bank::open().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = bearing(&bank.reader, ReceiverStream::new(receiver));
    let mut client = ServerReflectionClient::new(bank.service.channel.clone());
    let list = MessageRequest::ListServices(String::new());
    let question = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    sender.send(question.clone()).await.unwrap();
    let mut answers = client.server_reflection_info(request).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    bank.replace(&principal("admin", "admin", &bank.admin, "")).await;
    assert_ends(&mut answers, "its principal is gone").await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_was_rotated() {
    // The principal stays, and is let in by its new token, also before the old one is gone.
    let bank = Bank::open().await;
    let new = daybook::access::new_token().unwrap();
    let admin = principal("admin", "admin", &bank.admin, "");
    bank.replace(&(with_tokens("reader", &[&bank.reader]) + &admin)).await;
    let request = bearing(&bank.reader, TailEventsRequest::default());
    let mut tail = bank.service.queries.clone().tail_events(request).await.unwrap().into_inner();
    bank.replace(&(with_tokens("reader", &[&bank.reader, &new]) + &admin)).await;
    bank.call(&new, get(&bank.foreign)).await.unwrap();
    let event = bank.call(&bank.admin, deposit(&bank.own[0], 1)).await.unwrap().event.unwrap();
    assert_tells(&mut tail, |told| told.position == event.position).await;
    bank.replace(&(with_tokens("reader", &[&new]) + &admin)).await;
    assert_ends(&mut tail, "its token is gone").await;
    bank.call(&new, get(&bank.foreign)).await.unwrap();
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
    assert_ends(&mut of_reader, "it is limited now").await;
    assert_ends(&mut answers, "it is a reader now").await;
    // What it sends now is not carried out.
    let _nobody_may_take_it = sender.send(batch()).await;
    let account = bank.call(&bank.admin, get(&bank.foreign)).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 1_001);

    bank.call(&bank.admin, deposit(&bank.own[0], 1)).await.unwrap();
    assert_tells(&mut of_admin, |event| event.account_id == bank.own[0] && event.version > 1).await;
}
