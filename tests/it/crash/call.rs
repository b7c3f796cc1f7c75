//! A call: commands that a client sends together, and all that it comes to know of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daybook::proto::{
    BatchCommand, Event, ExecuteBatchRequest, Saga, SagaState, batch_command::Command,
    batch_result::Result as Told, command_service_client::CommandServiceClient, event::Payload,
};
use prost::Message as _;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::service::reason;

/// How long an answer may take on a busy machine. Whoever waits longer waits for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How soon it is sent again to a server that could not reach its log.
const SEND_AGAIN: Duration = Duration::from_millis(100);

pub(crate) type Client = CommandServiceClient<Channel>;

/// How commands are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One command, by its own method.
    Single,
    /// One batch.
    Batch,
    /// One batch of which no command can be refused.
    SureBatch,
}

/// What an accepted command was answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The one event that it recorded.
    Event(Box<Event>),
    /// The saga of a transfer that completed.
    Completed(Box<Saga>),
    /// A transfer that began and failed.
    Failed { saga_id: String, reason: String, position: i64 },
}

/// By which rule a command was refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    /// The version that the account had, where the answer tells it.
    pub(crate) actual_version: Option<i64>,
}

/// What is known of a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// No answer came: it may have happened.
    Unknown,
    /// A rule said no: it did not happen.
    Refused(Refusal),
    /// It happened, now or, when `replayed`, under an earlier call.
    Recorded { answer: Answer, replayed: bool },
}

/// Commands that were sent together, and what is known of each.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) shape: Shape,
    pub(crate) commands: Vec<Command>,
    pub(crate) verdicts: Vec<Verdict>,
    /// How many answers were compared with an earlier one.
    pub(crate) repeats: usize,
}

/// The idempotency key of a command; empty when it has none.
pub(crate) fn request_id(command: &Command) -> &str {
    match command {
        Command::OpenAccount(request) => &request.request_id,
        Command::DepositMoney(request) => &request.request_id,
        Command::WithdrawMoney(request) => &request.request_id,
        Command::TransferMoney(request) => &request.request_id,
        Command::CloseAccount(request) => &request.request_id,
    }
}

impl Call {
    pub(crate) fn new(shape: Shape, commands: Vec<Command>) -> Self {
        let verdicts = vec![Verdict::Unknown; commands.len()];
        Self { shape, commands, verdicts, repeats: 0 }
    }

    /// The commands with what is known of them.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Command, &Verdict)> {
        self.commands.iter().zip(&self.verdicts)
    }

    /// Whether something of it may have happened or not.
    pub(crate) fn is_open(&self) -> bool {
        self.verdicts.contains(&Verdict::Unknown)
    }

    /// Whether sending it again has no other effect than sending it once.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.commands.iter().all(|command| !request_id(command).is_empty())
    }

    /// Takes the answers to the same commands, sent once more.
    pub(crate) fn learn(&mut self, verdicts: Vec<Verdict>) {
        for ((command, known), new) in self.commands.iter().zip(&mut self.verdicts).zip(verdicts) {
            match (&known, &new) {
                (
                    Verdict::Recorded { answer: first, .. },
                    Verdict::Recorded { answer: second, replayed },
                ) => {
                    assert_eq!(first, second, "{command:?} was answered in two ways");
                    assert!(replayed, "{command:?} was carried out twice");
                    self.repeats += 1;
                }
                (Verdict::Recorded { .. }, Verdict::Refused(refusal)) => {
                    panic!("{command:?} was recorded, and later {refusal:?}")
                }
                (Verdict::Recorded { .. }, Verdict::Unknown) => {}
                // What was refused may be accepted later, when the state has changed; also when
                // the answer to that is lost.
                (Verdict::Unknown | Verdict::Refused(_), _) => *known = new,
            }
        }
    }

    /// Takes the answers to the same new commands, sent over two connections at once. Which of
    /// them came first is unknown; but one of them did.
    pub(crate) fn learn_twins(&mut self, one: Vec<Verdict>, other: Vec<Verdict>) {
        let (mut earlier, mut later) = (Vec::new(), Vec::new());
        for (one, other) in one.into_iter().zip(other) {
            let is_repeat =
                |verdict: &Verdict| matches!(verdict, Verdict::Recorded { replayed: true, .. });
            let is_first =
                |verdict: &Verdict| matches!(verdict, Verdict::Recorded { replayed: false, .. });
            if is_repeat(&one) || is_repeat(&other) {
                let has_first = [&one, &other]
                    .into_iter()
                    .any(|verdict| is_first(verdict) || *verdict == Verdict::Unknown);
                assert!(has_first, "a repeat of nothing: {one:?} {other:?}");
            }
            let swap = is_repeat(&one) || matches!(other, Verdict::Refused(_));
            let (first, second) = if swap { (other, one) } else { (one, other) };
            earlier.push(first);
            later.push(second);
        }
        self.learn(earlier);
        self.learn(later);
    }

    /// Sends it. Every command has an answer, unless the server was killed meanwhile.
    pub(crate) async fn send(&self, client: &mut Client, killed: &AtomicBool) -> Vec<Verdict> {
        let answer = timeout(ANSWER_WITHIN, self.send_patiently(client, killed)).await;
        match answer.expect("an answer comes in time") {
            Ok(verdicts) => verdicts,
            Err(status) => {
                let verdict = judge(&status);
                let is_expected = verdict != Verdict::Unknown || killed.load(Ordering::Relaxed);
                assert!(is_expected, "no answer from a server that lives: {status:?}");
                vec![verdict; self.commands.len()]
            }
        }
    }

    /// Sends it, again while a server that lives cannot reach its log: over a database it loses its
    /// lease for a moment on a machine that is busy enough.
    async fn send_patiently(
        &self,
        client: &mut Client,
        killed: &AtomicBool,
    ) -> Result<Vec<Verdict>, Status> {
        loop {
            let answer = match self.shape {
                Shape::Single => self.send_single(client).await,
                Shape::Batch | Shape::SureBatch => self.send_batch(client).await,
            };
            let may_repeat = self.is_repeatable() && !killed.load(Ordering::Relaxed);
            match &answer {
                Err(status) if may_repeat && reason(status) == "LOG_UNREACHABLE" => {}
                Ok(_) | Err(_) => return answer,
            }
            sleep(SEND_AGAIN).await;
        }
    }

    async fn send_single(&self, client: &mut Client) -> Result<Vec<Verdict>, Status> {
        Ok(vec![send_command(client, self.commands[0].clone()).await?])
    }

    async fn send_batch(&self, client: &mut Client) -> Result<Vec<Verdict>, Status> {
        let commands = self.commands.iter().cloned();
        let commands = commands.map(|command| BatchCommand { command: Some(command) }).collect();
        let request = ExecuteBatchRequest { commands, return_results: true };
        let response = client.execute_batch(request).await?.into_inner();
        let accepted_count = usize::try_from(response.accepted_count).expect("a count");
        assert_eq!(response.results.len(), accepted_count);
        let mut verdicts = vec![Verdict::Unknown; self.commands.len()];
        for result in response.results {
            let told = accepted(result.result.expect("a result has a kind"));
            assert!(last_position(&told) <= Some(response.position), "it was answered too early");
            verdicts[usize::try_from(result.index).expect("an index")] = told;
        }
        for failure in response.failures {
            let status = failure.status.expect("a failure has a status");
            let code = Code::from(status.code);
            let status = Status::with_details(code, &status.message, status.encode_to_vec().into());
            verdicts[usize::try_from(failure.index).expect("an index")] = judge(&status);
        }
        assert!(!verdicts.contains(&Verdict::Unknown), "a command of a batch has no answer");
        Ok(verdicts)
    }
}

/// Sends one command by its own method.
///
/// # Errors
/// Every answer that is not that it was accepted.
pub(crate) async fn send_command(client: &mut Client, command: Command) -> Result<Verdict, Status> {
    let told = match command {
        Command::OpenAccount(request) => {
            Told::OpenAccount(client.open_account(request).await?.into_inner())
        }
        Command::DepositMoney(request) => {
            Told::DepositMoney(client.deposit_money(request).await?.into_inner())
        }
        Command::WithdrawMoney(request) => {
            Told::WithdrawMoney(client.withdraw_money(request).await?.into_inner())
        }
        Command::TransferMoney(request) => {
            Told::TransferMoney(client.transfer_money(request).await?.into_inner())
        }
        Command::CloseAccount(request) => {
            Told::CloseAccount(client.close_account(request).await?.into_inner())
        }
    };
    Ok(accepted(told))
}

/// Where the last event of an accepted command is.
pub(crate) fn last_position(verdict: &Verdict) -> Option<i64> {
    match verdict {
        Verdict::Recorded { answer: Answer::Event(event), .. } => Some(event.position),
        Verdict::Recorded { answer: Answer::Completed(saga), .. } => Some(saga.position),
        Verdict::Recorded { answer: Answer::Failed { position, .. }, .. } => Some(*position),
        Verdict::Refused(_) | Verdict::Unknown => None,
    }
}

/// What an answer says, after a look at whether it agrees with itself.
fn accepted(told: Told) -> Verdict {
    let (event, replayed) = match told {
        Told::OpenAccount(response) => {
            let event = response.event.expect("an opening is an event");
            assert_eq!(event.account_id, response.account_id);
            (event, response.replayed)
        }
        Told::DepositMoney(response) => {
            let event = response.event.expect("a deposit is an event");
            let balance = match &event.payload {
                Some(Payload::MoneyDeposited(deposited)) => deposited.balance_minor,
                other => panic!("a deposit was answered with {other:?}"),
            };
            assert_eq!(balance, response.balance_minor);
            (event, response.replayed)
        }
        Told::WithdrawMoney(response) => {
            let event = response.event.expect("a withdrawal is an event");
            let balance = match &event.payload {
                Some(Payload::MoneyWithdrawn(withdrawn)) => withdrawn.balance_minor,
                other => panic!("a withdrawal was answered with {other:?}"),
            };
            assert_eq!(balance, response.balance_minor);
            (event, response.replayed)
        }
        Told::CloseAccount(response) => {
            (response.event.expect("a closing is an event"), response.replayed)
        }
        Told::TransferMoney(response) => {
            let saga = Box::new(response.saga.expect("a transfer is a saga"));
            assert_eq!(saga.state(), SagaState::Completed);
            let replayed = response.replayed;
            return Verdict::Recorded { answer: Answer::Completed(saga), replayed };
        }
    };
    Verdict::Recorded { answer: Answer::Event(Box::new(event)), replayed }
}

/// What a status says. Without an `ErrorInfo` of the server's it is not the server's word.
pub(crate) fn judge(status: &Status) -> Verdict {
    let info = status.get_details_error_info().filter(|info| info.domain == "daybook");
    let Some(info) = info else { return Verdict::Unknown };
    assert_ne!(info.reason, "REQUEST_ID_REUSED", "each id belongs to one command: {status:?}");
    let told = |key: &str| info.metadata.get(key).cloned();
    match (status.code(), told("saga_id")) {
        (Code::FailedPrecondition, Some(saga_id)) => {
            let position = told("position").and_then(|text| text.parse().ok());
            let position = position.expect("a failed transfer has a position");
            let replayed = told("replayed").as_deref() == Some("true");
            let answer = Answer::Failed { saga_id, reason: info.reason, position };
            Verdict::Recorded { answer, replayed }
        }
        (
            code @ (Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Aborted
            | Code::InvalidArgument),
            _,
        ) => {
            let actual_version = told("actual_version").and_then(|text| text.parse().ok());
            Verdict::Refused(Refusal { code, reason: info.reason, actual_version })
        }
        (Code::Unavailable, _) => Verdict::Unknown,
        (code, _) => panic!("{code:?} is no answer to a command: {status:?}"),
    }
}
