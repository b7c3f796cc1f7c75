//! Streams of batches: answered in order, many on their way at once.

use std::time::Duration;

use daybook::proto::{
    BatchCommand, ExecuteStreamRequest, ExecuteStreamResponse, batch_result::Result as Done,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::service::{
    BATCH_COMMANDS_MAX, Client, InBatch as _, Service, deposit, open, violations, withdraw,
};

/// A stream of batches that is open.
struct Batches {
    sender: mpsc::Sender<ExecuteStreamRequest>,
    answers: Streaming<ExecuteStreamResponse>,
}

impl Batches {
    async fn open(client: &Client) -> Self {
        let (sender, receiver) = mpsc::channel(1_000);
        let mut commands = client.commands.clone();
        let answers = commands.execute_stream(ReceiverStream::new(receiver)).await.unwrap();
        Self { sender, answers: answers.into_inner() }
    }

    async fn send(&self, commands: Vec<BatchCommand>) {
        let request = ExecuteStreamRequest { commands, return_results: true };
        self.sender.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Option<ExecuteStreamResponse>, Status> {
        self.answers.message().await
    }

    /// Says that no more batches come, and waits for the end of the answers.
    async fn finish(mut self) {
        drop(self.sender);
        assert_eq!(self.answers.message().await.unwrap(), None);
    }
}

/// The balances that the results of an answer tell.
fn balances(answer: &ExecuteStreamResponse) -> Vec<i64> {
    let balances = answer.results.iter().map(|result| match result.result.as_ref().unwrap() {
        Done::DepositMoney(done) => done.balance_minor,
        Done::WithdrawMoney(done) => done.balance_minor,
        other => panic!("{other:?}"),
    });
    balances.collect()
}

#[tokio::test]
async fn batches_of_a_stream_are_answered_in_order() {
    // 200 batches are sent before any answer is read: each answer is that of its batch.
    let service = Service::on_disk().await;
    let id = service.opened(0).await;
    let mut batches = Batches::open(&service).await;
    for _ in 0..200 {
        batches.send(vec![deposit(&id, 2).in_batch(), withdraw(&id, 1).in_batch()]).await;
    }
    let mut position = 0;
    for round in 0..200 {
        let answer = batches.answer().await.unwrap().unwrap();
        assert_eq!((answer.accepted_count, balances(&answer)), (2, vec![round + 2, round + 1]));
        assert!(answer.position >= position.max(3 + 2 * round));
        position = answer.position;
    }
    batches.finish().await;
    assert_eq!(service.balance(&id).await, 200);
}

#[tokio::test]
async fn a_stream_answers_before_its_next_batch_is_sent() {
    // No answer waits for more to come in.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let mut batches = Batches::open(&service).await;
    for round in 1..=20 {
        batches.send(vec![deposit(&id, 1).in_batch()]).await;
        let answer = batches.answer().await.unwrap().unwrap();
        assert_eq!(balances(&answer), [round]);
        assert_eq!(service.balance(&id).await, round);
    }
    batches.finish().await;
}

#[tokio::test]
async fn a_batch_that_breaks_a_limit_ends_the_stream_after_the_answers_before_it() {
    // Empty or too large: what came before it is answered, what comes after is not carried out.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    for count in [0, BATCH_COMMANDS_MAX + 1] {
        let before = service.balance(&id).await;
        let mut batches = Batches::open(&service).await;
        for _ in 0..3 {
            batches.send(vec![deposit(&id, 1).in_batch()]).await;
        }
        batches.send(vec![deposit(&id, 1).in_batch(); count]).await;
        batches.send(vec![deposit(&id, 1).in_batch()]).await;
        for round in 1..=3 {
            let answer = batches.answer().await.unwrap().unwrap();
            assert_eq!(balances(&answer), [before + round]);
        }
        let status = batches.answer().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status), ["commands"]);
        assert_eq!(service.balance(&id).await, before + 3);
    }
}

#[tokio::test]
async fn commands_that_fail_do_not_end_a_stream() {
    // Invalid and refused commands are failures of their batch, as in a batch by itself.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let mut batches = Batches::open(&service).await;
    batches.send(vec![withdraw(&id, 1).in_batch(), deposit("bad", 1).in_batch()]).await;
    batches.send(vec![BatchCommand { command: None }]).await;
    batches.send(vec![deposit(&id, 1).in_batch()]).await;
    let expected = [(0, vec![0, 1]), (0, vec![0]), (1, vec![])];
    for (accepted, failed) in expected {
        let answer = batches.answer().await.unwrap().unwrap();
        let indexes: Vec<_> = answer.failures.iter().map(|failure| failure.index).collect();
        assert_eq!((answer.accepted_count, indexes), (accepted, failed));
    }
    batches.finish().await;
}

#[tokio::test]
async fn many_streams_share_a_server() {
    // Eight streams on one connection, each with its own account: none hinders another.
    let service = Service::in_memory().await;
    let streams = crate::service::at_once(8, |_| {
        let client = Client::clone(&service);
        async move {
            let id = client.opened(0).await;
            let mut batches = Batches::open(&client).await;
            for _ in 0..20 {
                batches.send(vec![deposit(&id, 1).in_batch(); 100]).await;
            }
            for round in 1..=20 {
                let answer = batches.answer().await.unwrap().unwrap();
                assert_eq!(balances(&answer).last(), Some(&(round * 100)));
            }
            batches.finish().await;
            client.balance(&id).await
        }
    });
    assert_eq!(streams.await, vec![2_000; 8]);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_back_its_sender_only() {
    // Batches come in faster than their answers are taken: others are served all the while, and
    // every answer is there in the end.
    let service = Service::in_memory().await;
    let mut batches = Batches::open(&service.another().await).await;
    let commands = vec![open("ada", 0).in_batch(); 500];
    let sender = batches.sender.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..60 {
            let request = ExecuteStreamRequest { commands: commands.clone(), return_results: true };
            sender.send(request).await.unwrap();
        }
    });
    let id = service.opened(0).await;
    for round in 1..=50 {
        assert_eq!(service.call(deposit(&id, 1)).await.unwrap().balance_minor, round);
    }
    for _ in 0..60 {
        assert_eq!(batches.answer().await.unwrap().unwrap().accepted_count, 500);
    }
    sending.await.unwrap();
    batches.finish().await;
}

#[tokio::test]
async fn a_stream_whose_answers_are_not_taken_is_carried_out_so_far_only() {
    // What became of its commands is kept for it: of as many as the largest batch has, and of what
    // the transport has for the client already.
    let service = Service::in_memory().await;
    let mut batches = Batches::open(&service.another().await).await;
    let commands = vec![open("ada", 0).in_batch(); 500];
    let sender = batches.sender.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..200 {
            let request = ExecuteStreamRequest { commands: commands.clone(), return_results: true };
            sender.send(request).await.unwrap();
        }
    });
    let (mut before, mut position) = (0, -1);
    while position != before || position < 1_000 {
        before = position;
        tokio::time::sleep(Duration::from_millis(500)).await;
        position = service.stats().await.position;
    }
    assert!(position < 60_000, "{position} of 100,000 were carried out");
    for _ in 0..200 {
        assert_eq!(batches.answer().await.unwrap().unwrap().accepted_count, 500);
    }
    sending.await.unwrap();
    assert_eq!(service.stats().await.position, 100_000);
    batches.finish().await;
}
