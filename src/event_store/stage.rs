//! The stage: commands that are decided and not yet durable, with the answers they will get.

use tokio::sync::oneshot;

use super::entry::{Entry, SagaEnd};
use super::state::{State, Verdict};
use crate::{
    domain::{Command, Principal, Refusal},
    log::Group,
};

/// Once the records of a group have so many bytes, further commands wait for the next group. More
/// would make the first of them wait longer, and syncing is by then cheap beside writing.
pub(crate) const GROUP_BYTES_TARGET: usize = 1024 * 1024;

/// For so many commands at once memory is warmed before they are decided: few enough that what
/// was fetched first is still in the nearest cache.
const WARM_COMMANDS: usize = 64;

/// How much an answer is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The outcome of every command.
    All,
    /// Only the outcomes that are not simply "recorded, and the transfer completed".
    Exceptions,
}

/// What became of one command.
#[derive(Debug)]
pub enum Outcome {
    /// It was recorded so. A transfer may have failed: its entry tells.
    Recorded(Box<Entry>),
    /// It was recorded before, under the same request id.
    Replayed {
        /// The position of the first event that was recorded then.
        position: u64,
    },
    /// A rule said no.
    Refused(Refusal),
}

/// The answer to a submission: all of it is durable, and nothing it was decided on can be lost.
#[derive(Debug)]
pub struct Answer {
    /// How far the log was durable then.
    pub position: u64,
    /// The commands themselves, given back.
    pub commands: Vec<Command>,
    /// The outcomes, each with the index of its command, in order.
    pub outcomes: Vec<(usize, Outcome)>,
}

/// Why commands have no outcome. None of these says that they did not happen, except
/// [`Failure::Overloaded`], [`Failure::NoRoom`], [`Failure::Unreachable`] and
/// [`Failure::Damaged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The mailbox is full. Nothing happened.
    #[error("too many commands are waiting")]
    Overloaded,
    /// The log has no room. Nothing happened by this; what somebody sent before may still.
    #[error("the log has no room for more events")]
    NoRoom,
    /// The log cannot be reached. Nothing happened by this; what somebody sent before may still.
    #[error("the log cannot be reached")]
    Unreachable,
    /// The log has failed. What happened is unknown until a restart.
    #[error("the log has failed")]
    Latched,
    /// The log is damaged and takes no commands. Nothing happened.
    #[error("the log is damaged")]
    Damaged,
    /// The store is stopping. What was not answered did not happen.
    #[error("the store is stopping")]
    Stopping,
}

/// Commands that came in together, and where their answer is to go.
#[derive(Debug)]
pub(crate) struct Submission {
    /// Who gave them, as the server knows its callers.
    pub(crate) principal: Option<Principal>,
    pub(crate) commands: Vec<Command>,
    /// Nothing that is recorded from these on has an earlier time.
    pub(crate) not_before_micros: i64,
    pub(crate) detail: Detail,
    pub(crate) reply: oneshot::Sender<Result<Answer, Failure>>,
}

/// How many places of the mailbox a submission takes: one for each command, and one for a question
/// without any, so that nothing else can fill the mailbox up.
pub(crate) fn places(commands: usize) -> usize {
    commands.max(1)
}

/// An answer that waits for durability, and the mailbox places that its commands hold till then.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) commands: Vec<Command>,
    pub(crate) outcomes: Vec<(usize, Outcome)>,
    pub(crate) reply: oneshot::Sender<Result<Answer, Failure>>,
}

impl Pending {
    /// Whether nobody waits for it any more, and it has recorded nothing: it repeats what was
    /// decided before.
    pub(crate) fn is_left_repeat(&self) -> bool {
        let is_repeat = |(_, outcome): &(usize, Outcome)| match outcome {
            Outcome::Replayed { position: _ } => true,
            Outcome::Recorded(_) | Outcome::Refused(_) => false,
        };
        self.reply.is_closed()
            && !self.commands.is_empty()
            && self.outcomes.len() == self.commands.len()
            && self.outcomes.iter().all(is_repeat)
    }
}

/// A group that is being filled, and the answers that depend on it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) group: Group,
    pub(crate) pending: Vec<Pending>,
    /// The memory of the last entry that nobody wanted to keep.
    entry: Entry,
}

impl Stage {
    /// Nothing yet, after everything before `next_position`.
    pub(crate) fn new(next_position: u64) -> Self {
        Self { group: Group::new(next_position), pending: Vec::new(), entry: Entry::default() }
    }

    /// Whether nobody waits for it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many commands wait for it.
    pub(crate) fn command_count(&self) -> usize {
        self.pending.iter().map(|pending| pending.commands.len()).sum()
    }

    /// Whether further commands should wait for the next group.
    pub(crate) fn is_full(&self) -> bool {
        self.group.byte_count() >= GROUP_BYTES_TARGET
    }

    /// Decides all commands of a submission, in order, into this group. Refusals wait for the
    /// group as well, because they may rest on what it records.
    pub(crate) fn decide(&mut self, state: &mut State, submission: Submission, now_micros: i64) {
        let Submission { principal, commands, not_before_micros, detail, reply } = submission;
        state.observe_time(now_micros.max(not_before_micros));
        let mut outcomes = Vec::new();
        let mut index = 0_usize;
        for few in commands.chunks(WARM_COMMANDS) {
            state.warm(few);
            for command in few {
                let given = Given { command, principal: principal.as_ref(), now_micros };
                let outcome = self.decide_one(state, given, detail);
                outcomes.extend(outcome.map(|outcome| (index, outcome)));
                index = index.saturating_add(1);
            }
        }
        self.pending.push(Pending { commands, outcomes, reply });
    }

    fn decide_one(
        &mut self,
        state: &mut State,
        given: Given<'_>,
        detail: Detail,
    ) -> Option<Outcome> {
        let Given { command, principal, now_micros } = given;
        let entry = &mut self.entry;
        match state.decide(command, principal, now_micros, entry) {
            Verdict::Accepted => {
                let event_count = u32::try_from(entry.events.len()).unwrap_or(u32::MAX);
                self.group.push(event_count, |bytes| state.codec().encode(entry, bytes));
                let plain = matches!(entry.saga_end(), None | Some(SagaEnd::Completed));
                let told = detail == Detail::All || !plain;
                told.then(|| Outcome::Recorded(Box::new(std::mem::take(entry))))
            }
            Verdict::Replayed { position } => Some(Outcome::Replayed { position }),
            Verdict::Refused(refusal) => Some(Outcome::Refused(refusal)),
        }
    }
}

/// A command, who gave it, and when.
#[derive(Clone, Copy)]
struct Given<'a> {
    command: &'a Command,
    principal: Option<&'a Principal>,
    now_micros: i64,
}

impl Submission {
    /// What waits for an answer when nothing of it is carried out.
    pub(crate) fn refused(self) -> Pending {
        Pending { commands: self.commands, outcomes: Vec::new(), reply: self.reply }
    }
}
