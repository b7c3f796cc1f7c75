//! Batches: many commands in one message, and the answers to each.

use prost::Message as _;
use tonic::{Code, Status};

use super::{
    entrance::Visit,
    meter, parse, permit,
    reads::Reads,
    render::{self, Done},
    status,
};
use crate::{
    domain::{Command, Principal},
    event_store::{Answer, Cursor, Detail, Entry, Failure, HistoryError, Outcome, SagaEnd},
    proto,
    views::SagaView,
};

/// How many bytes the result of one command takes at most, its texts not counted, and not the name
/// of who gave it.
const RESULT_BYTES: usize = 256;
/// How many bytes stand before the name of a principal in a message: a tag, and a length that takes
/// two where the name is long.
const NAME_HEAD_BYTES: usize = 3;
/// How many bytes the results of a batch may take at most, texts included. A batch that might
/// need more is not carried out: nobody must learn of it by an answer that cannot be sent. With
/// the failures it stays below what clients take, 4 MiB by default.
const RESULTS_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Once the failures of an answer take so many bytes, those that follow are short: then one takes
/// less than the result that is there in its place.
const FULL_FAILURES_BYTES_MAX: usize = 512 * 1024;
/// How many characters the message of a short failure has.
const SHORT_MESSAGE_CHARS: usize = 100;

/// A batch that keeps the limits, its commands parsed.
pub(super) struct Batch {
    /// The commands that can be carried out.
    pub(super) commands: Vec<Command>,
    /// Their places in the batch.
    indexes: Vec<i32>,
    /// What is wrong with the others.
    invalid: Vec<(i32, Status)>,
    /// Who gave them.
    pub(super) principal: Option<Principal>,
    return_results: bool,
}

/// What an answer to a batch holds.
#[derive(Default)]
pub(super) struct BatchAnswer {
    pub(super) position: i64,
    pub(super) accepted_count: i32,
    pub(super) failures: Vec<proto::BatchFailure>,
    pub(super) results: Vec<proto::BatchResult>,
}

impl Batch {
    /// Parses each command by itself, after seeing whether the caller may give it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when there are none, or more than `commands_max`, or their results might be
    /// too large.
    pub(super) fn parse(
        principal: Option<Principal>,
        commands: Vec<proto::BatchCommand>,
        return_results: bool,
        commands_max: usize,
        visit: Option<&Visit>,
    ) -> Result<Self, Status> {
        if !(1..=commands_max).contains(&commands.len()) {
            let limit = format!("must have 1 to {commands_max} items");
            return Err(parse::invalid("commands", limit));
        }
        if return_results {
            expect_small_results(principal.as_ref(), &commands)?;
        }
        let mut batch = Self {
            commands: Vec::with_capacity(commands.len()),
            indexes: Vec::with_capacity(commands.len()),
            invalid: Vec::new(),
            principal,
            return_results,
        };
        // One for all of them: one call that is denied is told once.
        let mut denied: Option<Status> = None;
        for (index, command) in (0..).zip(commands) {
            if let Some(visit) = visit.filter(|visit| !permit::may_touch(visit, &command)) {
                let status = denied.get_or_insert_with(|| visit.account_not_allowed());
                batch.invalid.push((index, status.clone()));
                continue;
            }
            match parse::batch_command(command) {
                Ok(command) => {
                    batch.commands.push(command);
                    batch.indexes.push(index);
                }
                Err(status) => batch.invalid.push((index, status)),
            }
        }
        Ok(batch)
    }

    /// What the store is to tell of it.
    pub(super) fn detail(&self) -> Detail {
        if self.return_results { Detail::All } else { Detail::Exceptions }
    }

    /// Puts the answers of the store and the findings of the parser together.
    pub(super) async fn answer(
        self,
        reads: &Reads,
        answer: Result<Answer, Failure>,
    ) -> Result<BatchAnswer, Status> {
        let Answer { position, commands, outcomes } = answer.map_err(status::failed)?;
        let total = self.indexes.len().saturating_add(self.invalid.len());
        let mut told = BatchAnswer { position: render::number(position), ..Default::default() };
        let mut failures = self.invalid;
        let ids = *reads.history.codec().ids();
        for (place, judged) in judge(reads, &commands, outcomes).await? {
            let Some(index) = self.indexes.get(place).copied() else { continue };
            match judged {
                Ok(done) if self.return_results => {
                    let done = names_nobody_else(done, self.principal.as_ref());
                    let result = done.result(&ids);
                    told.results.push(proto::BatchResult { index, result });
                }
                Ok(_) => {}
                Err(status) => failures.push((index, status)),
            }
        }
        for (_, status) in &failures {
            reads.refusals.count(meter::reason(status));
        }
        failures.sort_unstable_by_key(|(index, _)| *index);
        let accepted = total.saturating_sub(failures.len());
        told.accepted_count = i32::try_from(accepted).unwrap_or(i32::MAX);
        told.failures = render_failures(failures);
        Ok(told)
    }
}

/// What a command came to: what it did, or why it did not.
///
/// One that was recorded earlier is looked up in the log: a repeat must be the same command.
pub(super) async fn judge_one(
    reads: &Reads,
    command: Command,
    outcome: Outcome,
) -> Result<Done, Status> {
    if let Outcome::Replayed { position } = outcome {
        // Hardly a call comes here, and none is to carry the memory for it.
        let entry = Box::pin(reads.in_log(move |cursor| cursor.entry(position))).await?;
        return replayed(&command, entry);
    }
    decided(outcome)
}

/// What a command came to that was decided now.
fn decided(outcome: Outcome) -> Result<Done, Status> {
    match outcome {
        Outcome::Recorded(entry) => finished(Done { entry, replayed: false }),
        Outcome::Refused(refusal) => Err(status::refused(&refusal)),
        Outcome::Replayed { position: _ } => {
            Err(status::internal("a repeat whose first time was not looked up"))
        }
    }
}

/// What each command of a submission came to, as [`judge_one`] has it.
async fn judge(
    reads: &Reads,
    commands: &[Command],
    outcomes: Vec<(usize, Outcome)>,
) -> Result<Vec<(usize, Result<Done, Status>)>, Status> {
    let mut recorded = read_replayed(reads, &outcomes).await?.into_iter();
    let judge_one = |(place, outcome): (usize, Outcome)| {
        let done = match outcome {
            Outcome::Replayed { position: _ } => match (commands.get(place), recorded.next()) {
                (Some(command), Some(entry)) => replayed(command, entry),
                (None, _) | (_, None) => Err(status::internal("an outcome without its command")),
            },
            Outcome::Recorded(_) | Outcome::Refused(_) => decided(outcome),
        };
        (place, done)
    };
    Ok(outcomes.into_iter().map(judge_one).collect())
}

/// The entries of the outcomes that were recorded earlier, in order, read at once.
async fn read_replayed(
    reads: &Reads,
    outcomes: &[(usize, Outcome)],
) -> Result<Vec<Result<Entry, HistoryError>>, Status> {
    let position = |(_, outcome): &(usize, Outcome)| match outcome {
        Outcome::Replayed { position } => Some(*position),
        Outcome::Recorded(_) | Outcome::Refused(_) => None,
    };
    let positions: Vec<u64> = outcomes.iter().filter_map(position).collect();
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let read = move |cursor: &mut Cursor| {
        positions.into_iter().map(|position| cursor.entry(position)).collect()
    };
    reads.in_log(read).await
}

/// A transfer that failed is not done, though it is recorded.
fn finished(done: Done) -> Result<Done, Status> {
    match done.entry.saga_end() {
        None | Some(SagaEnd::Completed) => Ok(done),
        Some(SagaEnd::Failed(error) | SagaEnd::Compensated(error)) => {
            let saga = SagaView::fold(&done.entry);
            let saga = saga.ok_or_else(|| status::internal("a transfer that did not begin"))?;
            Err(status::transfer_failed(&saga, error, done.replayed))
        }
    }
}

fn replayed(command: &Command, entry: Result<Entry, HistoryError>) -> Result<Done, Status> {
    let entry = entry.map_err(|failure| status::unreadable(&failure))?;
    if entry.answers(command) {
        finished(Done { entry: Box::new(entry), replayed: true })
    } else {
        let request_id = command.request_id.map(|id| id.to_string());
        Err(status::request_id_reused(request_id.unwrap_or_default()))
    }
}

/// What a result of a batch tells: not who else gave the command before, where it is a repeat of
/// somebody else's. How long that name is nobody knows before the batch is carried out, and then
/// its answer must fit into a message.
fn names_nobody_else(mut done: Done, caller: Option<&Principal>) -> Done {
    if done.replayed && done.entry.principal.as_ref() != caller {
        done.entry.principal = None;
    }
    done
}

/// That the results of these commands can be sent, whatever they come to.
fn expect_small_results(
    principal: Option<&Principal>,
    commands: &[proto::BatchCommand],
) -> Result<(), Status> {
    let name = principal.map(|name| name.as_str().len().saturating_add(NAME_HEAD_BYTES));
    let rest = RESULT_BYTES.saturating_add(name.unwrap_or(0));
    let bytes = commands.iter().map(|command| text_bytes(command).saturating_add(rest));
    if bytes.fold(0, usize::saturating_add) <= RESULTS_BYTES_MAX {
        return Ok(());
    }
    let limit = "must be false for so many commands: their results might exceed 3 MiB";
    Err(parse::invalid("return_results", limit))
}

/// How many bytes of free text the result of a command repeats.
fn text_bytes(command: &proto::BatchCommand) -> usize {
    use proto::batch_command::Command as Kind;
    match &command.command {
        Some(Kind::OpenAccount(request)) => request.owner.len(),
        Some(Kind::DepositMoney(request)) => request.reason.len(),
        Some(Kind::WithdrawMoney(request)) => request.reason.len(),
        Some(Kind::TransferMoney(request)) => request.reason.len(),
        Some(Kind::CloseAccount(_)) | None => 0,
    }
}

fn render_failures(failures: Vec<(i32, Status)>) -> Vec<proto::BatchFailure> {
    let mut bytes: usize = 0;
    let rendered = failures.into_iter().map(|(index, status)| {
        let full = tonic_types::Status::decode(status.details()).ok();
        let full = full.filter(|full| {
            bytes = bytes.saturating_add(full.encoded_len());
            bytes <= FULL_FAILURES_BYTES_MAX
        });
        let status = full.unwrap_or_else(|| short(status.code(), status.message()));
        proto::BatchFailure { index, status: Some(status) }
    });
    rendered.collect()
}

/// A status without details, its message cut.
fn short(code: Code, message: &str) -> tonic_types::Status {
    let message = message.chars().take(SHORT_MESSAGE_CHARS).collect();
    tonic_types::Status { code: code.into(), message, details: Vec::new() }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{
            AMOUNT_MAX_MINOR, AccountId, Amount, Balance, CurrencyCode, Event, Fact, Owner,
            PRINCIPAL_CHARS_MAX, RequestId, SagaId,
        },
        event_store::{AccountLink, Codec, EntryAccount, EventIds, GROUP_BYTES_TARGET, SagaLink},
        log::{GROUP_BYTES_MAX, RECORD_BYTES_MAX},
        ops::config::Limits,
        proto::batch_command::Command as Kind,
    };

    /// The bytes of a record in a group beside what it says.
    const RECORD_HEADER_BYTES: usize = 4;
    /// So far on nobody will ever be: all numbers are as long as they get.
    const FAR: u64 = 1 << 62;

    fn account(id: u128) -> EntryAccount {
        EntryAccount {
            id: AccountId::new(Uuid::from_u128(id)),
            number: u32::MAX,
            version: FAR,
            balance: Balance::new(AMOUNT_MAX_MINOR).unwrap(),
            link: AccountLink { previous: 1, skip: 1 },
        }
    }

    /// An entry with everything that is not in its request as long as it gets.
    fn entry(accounts: usize, facts: Vec<(usize, Fact)>) -> Entry {
        Entry {
            first_position: FAR,
            time_micros: i64::MAX,
            principal: Principal::new(&"🐚".repeat(PRINCIPAL_CHARS_MAX)).ok(),
            accounts: [account(1), account(2)].into_iter().take(accounts).collect(),
            events: facts.into_iter().map(|(slot, fact)| Event { slot, fact }).collect(),
            ..Entry::default()
        }
    }

    /// A transfer; it completes, or gives the money back.
    fn transfer(completes: bool) -> Entry {
        let (amount, balance) = (Amount::new(AMOUNT_MAX_MINOR).unwrap(), Balance::ZERO);
        let to = account(2).id;
        let deposited = |compensation| Fact::MoneyDeposited { amount, balance, compensation };
        let begun = vec![
            (0, Fact::TransferInitiated { to, amount }),
            (0, Fact::MoneyWithdrawn { amount, balance }),
        ];
        let ended = if completes {
            vec![(1, deposited(false)), (0, Fact::TransferCompleted), (1, Fact::TransferCompleted)]
        } else {
            let error = crate::domain::TransferError::DestinationNotFound;
            vec![(0, deposited(true)), (0, Fact::TransferFailed { error })]
        };
        let facts = begun.into_iter().chain(ended).collect();
        let saga = Some(SagaLink { id: SagaId::new(Uuid::from_u128(9)), previous: 1 });
        Entry { saga, ..entry(if completes { 2 } else { 1 }, facts) }
    }

    /// Each kind of command as briefly as it can be asked for, with what it records.
    fn kinds() -> Vec<(Kind, Entry)> {
        let id = Uuid::from_u128(1).to_string();
        let (account_id, amount_minor) = (id.clone(), AMOUNT_MAX_MINOR);
        let (amount, balance) = (Amount::new(amount_minor).unwrap(), Balance::ZERO);
        let move_all = proto::TransferMoneyRequest {
            from_account_id: id.clone(),
            to_account_id: id.clone(),
            amount_minor,
            ..Default::default()
        };
        let mut named = move_all.clone();
        (named.request_id, named.saga_id) = (id.clone(), id.clone());
        let named_entry = Entry {
            id_given: true,
            request_id: Some(RequestId::new(Uuid::from_u128(3))),
            ..transfer(true)
        };
        let opened = Fact::AccountOpened {
            owner: Owner::new("A").unwrap(),
            currency: CurrencyCode::parse("ZZZZZZZZZZ").unwrap(),
            initial_balance: Balance::ZERO,
        };
        let deposited = Fact::MoneyDeposited { amount, balance, compensation: false };
        let deposit = proto::DepositMoneyRequest {
            account_id: account_id.clone(),
            amount_minor,
            ..Default::default()
        };
        let open = proto::OpenAccountRequest { owner: "A".to_owned(), ..Default::default() };
        let close = proto::CloseAccountRequest { account_id, ..Default::default() };
        vec![
            (Kind::TransferMoney(move_all.clone()), transfer(true)),
            (Kind::TransferMoney(move_all), transfer(false)),
            (Kind::TransferMoney(named), named_entry),
            (Kind::DepositMoney(deposit), entry(1, vec![(0, deposited)])),
            (Kind::OpenAccount(open), entry(1, vec![(0, opened)])),
            (Kind::CloseAccount(close), entry(1, vec![(0, Fact::AccountClosed)])),
        ]
    }

    /// What a batch repeats of its message, it takes from the message's size; what every command
    /// adds to that is in its record.
    #[test]
    fn the_largest_batch_fits_into_a_group_whoever_gives_it() {
        let codec = Codec::new(EventIds::new([7; 16]));
        for (kind, entry) in kinds() {
            let mut record = Vec::new();
            codec.encode(&entry, &mut record);
            let command = proto::BatchCommand { command: Some(kind) };
            let request =
                proto::ExecuteBatchRequest { commands: vec![command], return_results: false };
            assert!(record.len() + 2 * 1024 <= RECORD_BYTES_MAX, "with the longest texts as well");
            let added = (record.len() + RECORD_HEADER_BYTES).saturating_sub(request.encoded_len());
            let Limits { message_bytes, batch_commands, .. } = Limits::default();
            let group = GROUP_BYTES_TARGET + message_bytes + added * batch_commands;
            assert!(group <= GROUP_BYTES_MAX, "{group} bytes: {request:?}");
        }
    }
}
