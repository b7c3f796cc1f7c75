//! Tails: every event once and in order, from any position, however fast or slow it is read.

use std::{collections::HashSet, time::Duration};

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, Event, EventType, TailEventsRequest, event::Payload,
};
use tokio::time::timeout;
use tonic::Code;

use crate::service::{
    BATCH_COMMANDS_MAX, Client, InBatch as _, Random, Service, Tail, assert_refused, at_once,
    batch_of, close, deposit, fresh_id, from, metadata, open, reason, transfer, withdraw,
};

/// How long a test waits for what should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// The next message, which must have considered more than the one before it, and no event beyond
/// what it has considered.
async fn next(tail: &mut Tail, considered: &mut i64) -> Vec<Event> {
    let message = timeout(PATIENCE, tail.message()).await.expect("no message came");
    let message = message.unwrap().expect("the tail has ended");
    assert!(message.position > *considered, "{} after {considered}", message.position);
    assert!(message.events.windows(2).all(|pair| pair[0].position < pair[1].position));
    let within = |event: &Event| event.position > *considered && event.position <= message.position;
    assert!(message.events.iter().all(within));
    *considered = message.position;
    message.events
}

/// Reads a tail that began after a position until it has considered another one.
async fn read(tail: &mut Tail, after: i64, until: i64) -> Vec<Event> {
    let (mut events, mut considered) = (Vec::new(), after);
    while considered < until {
        events.extend(next(tail, &mut considered).await);
    }
    events
}

/// A ledger with some of everything: transfers of every ending among other commands.
async fn with_history(service: &Service, rounds: i64) -> Vec<String> {
    let ids = vec![service.opened(10_000).await, service.opened(0).await, service.opened(0).await];
    let mut commands = vec![close(&ids[2]).in_batch()];
    for round in 0..rounds {
        commands.push(deposit(&ids[0], 1 + round).in_batch());
        commands.push(transfer(&ids[0], &ids[1], 2).in_batch());
        commands.push(withdraw(&ids[1], 1).in_batch());
    }
    service.carry_out(commands).await;
    for to in [&ids[2], &fresh_id()] {
        service.call(transfer(&ids[0], to, 5)).await.unwrap_err();
    }
    service.call(transfer(&ids[1], &ids[0], 1_000_000)).await.unwrap_err();
    ids
}

#[tokio::test]
async fn a_tail_from_any_position_gives_the_rest() {
    // From 0, from every place inside of transfers, from the head: nothing is lost or told twice.
    let service = Service::on_disk().await;
    with_history(&service, 12).await;
    let head = service.stats().await.position;
    let whole = read(&mut service.tail(from(0)).await.unwrap(), 0, head).await;
    let positions: Vec<i64> = whole.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
    for (after, rest) in (0..head).zip((0..).map(|start| &whole[start..])) {
        let mut tail = service.tail(from(after)).await.unwrap();
        assert_eq!(read(&mut tail, after, head).await, rest, "after {after}");
    }
    let mut tail = service.tail(from(head)).await.unwrap();
    let event = service.call(open("ada", 0)).await.unwrap().event.unwrap();
    assert_eq!(read(&mut tail, head, head + 1).await, [event]);
}

#[tokio::test]
async fn a_tail_can_be_resumed_from_each_of_its_messages() {
    // Each position that was told is one from which another tail loses nothing.
    let service = Service::in_memory().await;
    with_history(&service, 400).await;
    let whole = service.log().await;
    let (head, mut considered) = (service.stats().await.position, 0);
    let mut tail = service.tail(from(0)).await.unwrap();
    let mut messages = 0;
    while considered < head {
        next(&mut tail, &mut considered).await;
        messages += 1;
        let mut resumed = service.tail(from(considered)).await.unwrap();
        let rest = read(&mut resumed, considered, head).await;
        assert_eq!(rest, whole[usize::try_from(considered).unwrap()..]);
    }
    assert!(messages > 3, "{messages}");
}

#[tokio::test]
async fn a_tail_without_a_position_gives_only_what_is_new() {
    // Nothing from before the call, all from after it, as soon as it is there.
    let service = Service::in_memory().await;
    let ids = with_history(&service, 3).await;
    let mut tail = service.tail(TailEventsRequest::default()).await.unwrap();
    let mut considered = service.stats().await.position;
    for _ in 0..20 {
        let event = service.call(deposit(&ids[0], 1)).await.unwrap().event.unwrap();
        assert_eq!(next(&mut tail, &mut considered).await, [event]);
    }
}

#[tokio::test]
async fn a_tail_beyond_the_head_is_out_of_range() {
    // A position from another ledger, perhaps: the answer tells where the head is.
    let service = Service::in_memory().await;
    service.opened(0).await;
    for beyond in [2, 1_000, i64::MAX] {
        let status =
            assert_refused(service.tail(from(beyond)).await, Code::OutOfRange, "BEYOND_HEAD");
        assert_eq!(metadata(&status)["head_position"], "1");
    }
}

fn event_type(event: &Event) -> EventType {
    match event.payload.as_ref().unwrap() {
        Payload::AccountOpened(_) => EventType::AccountOpened,
        Payload::MoneyDeposited(_) => EventType::MoneyDeposited,
        Payload::MoneyWithdrawn(_) => EventType::MoneyWithdrawn,
        Payload::TransferInitiated(_) => EventType::TransferInitiated,
        Payload::TransferCompleted(_) => EventType::TransferCompleted,
        Payload::TransferFailed(_) => EventType::TransferFailed,
        Payload::AccountClosed(_) => EventType::AccountClosed,
    }
}

#[tokio::test]
async fn filters_pass_what_they_name() {
    // By accounts, by types, by both, and by what there is none of; from several positions.
    let service = Service::in_memory().await;
    let ids = with_history(&service, 60).await;
    let whole = service.log().await;
    let head = service.stats().await.position;
    let accounts: [&[String]; 4] = [&[], &ids[..1], &ids[1..], &[fresh_id()]];
    let types: [&[EventType]; 5] = [
        &[],
        &[EventType::AccountClosed],
        &[EventType::MoneyDeposited, EventType::TransferFailed],
        &[EventType::TransferInitiated, EventType::TransferInitiated],
        &[EventType::AccountOpened, EventType::MoneyWithdrawn, EventType::TransferCompleted],
    ];
    for after in [0, head / 2 + 1] {
        for (accounts, types) in accounts.iter().flat_map(|it| types.map(|types| (it, types))) {
            let request = TailEventsRequest {
                after_position: Some(after),
                account_ids: accounts.to_vec(),
                event_types: types.iter().map(|it| i32::from(*it)).collect(),
            };
            let passes = |event: &&Event| {
                event.position > after
                    && (accounts.is_empty() || accounts.contains(&event.account_id))
                    && (types.is_empty() || types.contains(&event_type(event)))
            };
            let expected: Vec<Event> = whole.iter().filter(passes).cloned().collect();
            let mut tail = service.tail(request).await.unwrap();
            assert_eq!(read(&mut tail, after, head).await, expected, "{types:?}");
        }
    }
}

#[tokio::test]
async fn positions_advance_when_no_event_passes() {
    // Who waits for a rare event can resume from where the log is, not from the last such event.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let rare = EventType::AccountClosed;
    let request =
        TailEventsRequest { event_types: vec![rare.into()], ..TailEventsRequest::default() };
    let mut tail = service.tail(request).await.unwrap();
    let mut considered = 1;
    for _ in 0..3 {
        service.carry_out(vec![deposit(&id, 1).in_batch(); 500]).await;
        let head = service.stats().await.position;
        while considered < head {
            assert_eq!(next(&mut tail, &mut considered).await, []);
        }
    }
    let other = service.opened(0).await;
    let closed = service.call(close(&other)).await.unwrap().event.unwrap();
    let events = read(&mut tail, considered, closed.position).await;
    assert_eq!(events, [closed]);
}

/// Writes `count` batches with 100 deposits, a transfer and a pause for others each.
async fn write(client: &Client, ids: &[String], count: usize) {
    for _ in 0..count {
        let mut commands = vec![deposit(&ids[0], 1).in_batch(); 100];
        commands.push(transfer(&ids[0], &ids[1], 3).in_batch());
        client.carry_out(commands).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tail_catches_up_while_a_writer_writes() {
    // From disk to live without a gap or a repeat, while the head moves on.
    let service = Service::on_disk().await;
    let ids = with_history(&service, 10).await;
    write(&service, &ids, 100).await;
    let start = service.stats().await.position;
    let until = start + 100 * 105;
    let reading = async {
        let mut tail = service.tail(from(0)).await.unwrap();
        read(&mut tail, 0, until).await
    };
    let (events, ()) = tokio::join!(reading, write(&service, &ids, 100));
    assert_eq!(service.stats().await.position, until);
    let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=until).collect::<Vec<_>>());
    assert_eq!(events, service.log().await);
}

#[tokio::test]
async fn fifty_tails_at_once_all_see_everything() {
    // From different positions, on one connection, while events come in.
    let service = Service::in_memory().await;
    let ids = with_history(&service, 20).await;
    let start = service.stats().await.position;
    let until = start + 20 * 105;
    let tails = at_once(50, |index| {
        let client = Client::clone(&service);
        async move {
            let after = i64::try_from(index).unwrap() * 2;
            let mut tail = client.tail(from(after)).await.unwrap();
            (after, read(&mut tail, after, until).await)
        }
    });
    let (tails, ()) = tokio::join!(tails, write(&service, &ids, 20));
    let whole = service.log().await;
    for (after, events) in tails {
        assert_eq!(events, whole[usize::try_from(after).unwrap()..]);
    }
}

#[tokio::test]
async fn a_tail_that_is_not_read_hinders_nobody() {
    // Its client reads nothing while 100,000 events are written; commands and reads are answered
    // all the while; then it reads everything in order.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let slow = service.another().await;
    let mut tail = slow.tail(from(0)).await.unwrap();
    let command: BatchCommand =
        DepositMoneyRequest { reason: "r".repeat(64), ..deposit(&id, 1) }.in_batch();
    let mut written = 1;
    while written < 100_000 {
        service.carry_out(vec![command.clone(); BATCH_COMMANDS_MAX]).await;
        written += i64::try_from(BATCH_COMMANDS_MAX).unwrap();
        let answer = timeout(PATIENCE, service.call(deposit(&id, 1))).await.unwrap().unwrap();
        written += 1;
        assert_eq!(answer.event.unwrap().position, written);
        assert_eq!(service.balance(&id).await, written - 1);
    }
    let mut expected = 1;
    let mut considered = 0;
    while considered < written {
        for event in next(&mut tail, &mut considered).await {
            assert_eq!(event.position, expected);
            expected += 1;
        }
    }
    assert_eq!(expected, written + 1);
}

#[tokio::test]
async fn a_tail_ends_with_unavailable_when_the_server_stops_and_is_resumed_after_it() {
    // What was told before the end and what the resumed tail tells is the whole log, once.
    const SEED: u64 = 20_260_301;
    let mut random = Random::seeded(SEED);
    let mut service = Service::on_disk().await;
    let ids = with_history(&service, 100).await;
    let (mut considered, mut events) = (0, Vec::new());
    for _ in 0..4 {
        let mut tail = service.tail(from(considered)).await.unwrap();
        let mut idle = service.tail(TailEventsRequest::default()).await.unwrap();
        for _ in 0..random.below(3) {
            if considered < service.stats().await.position {
                events.extend(next(&mut tail, &mut considered).await);
            }
        }
        let (ended, idle_ended, ()) = tokio::join!(
            end_of(&mut tail, &mut considered, &mut events),
            idle.message(),
            service.stop()
        );
        for status in [ended, idle_ended.unwrap_err()] {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STOPPING"));
        }
        service.restart().await;
        write(&service, &ids, 2).await;
    }
    let head = service.stats().await.position;
    let mut tail = service.tail(from(considered)).await.unwrap();
    events.extend(read(&mut tail, considered, head).await);
    assert_eq!(events, service.log().await);
}

/// Reads a tail to its end, and gives the status of it.
async fn end_of(tail: &mut Tail, considered: &mut i64, events: &mut Vec<Event>) -> tonic::Status {
    loop {
        match timeout(PATIENCE, tail.message()).await.expect("the tail does not end") {
            Ok(Some(message)) => {
                *considered = message.position;
                events.extend(message.events);
            }
            Ok(None) => panic!("the tail has ended without a status"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn a_tail_that_is_not_read_does_not_keep_the_server_from_stopping() {
    // Its end cannot be delivered: it is cut when the grace is over.
    let mut service = Service::with_grace(Duration::from_millis(200)).await;
    let id = service.opened(0).await;
    let stuck = service.another().await;
    let command = DepositMoneyRequest { reason: "r".repeat(256), ..deposit(&id, 1) }.in_batch();
    for _ in 0..4 {
        service.carry_out(vec![command.clone(); BATCH_COMMANDS_MAX]).await;
    }
    let mut tail = stuck.tail(from(0)).await.unwrap();
    assert_eq!(tail.message().await.unwrap().unwrap().events[0].position, 1);
    timeout(PATIENCE, service.stop()).await.expect("the server does not stop");
}

#[tokio::test]
async fn tails_that_are_given_up_leave_nothing_behind() {
    // Many come and go, read or not: those that stay still see everything.
    let service = Service::in_memory().await;
    let ids = with_history(&service, 50).await;
    let mut stays = service.tail(from(0)).await.unwrap();
    for round in 0..200 {
        let mut tail = service.tail(from(round)).await.unwrap();
        if round % 2 == 0 {
            tail.message().await.unwrap().unwrap();
        }
    }
    write(&service, &ids, 1).await;
    let head = service.stats().await.position;
    assert_eq!(read(&mut stays, 0, head).await, service.log().await);
}

#[tokio::test]
async fn the_largest_events_fit_into_the_messages_of_a_tail() {
    // 2,000 events with the longest reason: no message exceeds what a client takes.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let reason = "\u{10348}".repeat(256);
    let command = DepositMoneyRequest { reason, request_id: String::new(), ..deposit(&id, 1) };
    for _ in 0..2 {
        let commands = vec![command.clone().in_batch(); 1_000];
        assert_eq!(service.call(batch_of(commands)).await.unwrap().accepted_count, 1_000);
    }
    let events = service.log().await;
    let ids: HashSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!((events.len(), ids.len()), (2_001, 2_001));
}

#[tokio::test]
async fn a_tail_ends_where_a_damaged_log_does() {
    let mut service = Service::on_disk().await;
    with_history(&service, 20).await;
    write(&service, &[service.opened(1_000).await, service.opened(0).await], 4).await;
    service.restart_damaged().await;
    let (head, log) = (service.stats().await.position, service.log().await);
    for after in [0, head] {
        let mut tail = service.tail(from(after)).await.unwrap();
        assert_eq!(read(&mut tail, after, head).await, log[usize::try_from(after).unwrap()..]);
        let next = timeout(PATIENCE, tail.message()).await.expect("it ends");
        let status = assert_refused(next, Code::DataLoss, "LOG_DAMAGED");
        let next_position = (head + 1).to_string();
        assert_eq!(metadata(&status)["position"], next_position);
    }
    assert_refused(service.tail(from(head + 1)).await, Code::DataLoss, "LOG_DAMAGED");
}
