//! The writer: the one who decides. A state machine that waits for nothing but the log: the thread
//! that drives it takes inputs from the mailbox, and a test may drive it as well.

use std::{collections::VecDeque, sync::Arc};

use super::{
    committer::Committer,
    stage::{Failure, Pending, Stage, Submission},
    state::State,
};
use crate::ops::Clock;

/// A group of so many commands is best committed by the writer itself: deciding what comes in
/// meanwhile takes less time than waking another thread, and being woken by it.
pub(super) const SMALL_COMMANDS_MAX: usize = 256;

/// What the writer receives.
#[derive(Debug)]
pub(crate) enum Input {
    /// Commands to carry out.
    Commands(Submission),
    /// The group that was given out is committed, or never will be.
    Synced { latched: bool },
    /// What has come in is to be finished, and nothing after it begun.
    Stop,
}

/// Decides what comes in, in order, and fills one group after another.
pub(crate) struct Writer {
    state: State,
    clock: Arc<dyn Clock>,
    stage: Stage,
    backlog: VecDeque<Submission>,
    committer: Arc<Committer>,
    small_commands_max: usize,
    /// Whether a group was given out and is not committed yet.
    syncing: bool,
    latched: bool,
    stopping: bool,
}

impl Writer {
    /// Groups of up to `small_commands_max` commands are committed by the writer itself.
    pub(crate) fn new(
        state: State,
        clock: Arc<dyn Clock>,
        committer: Arc<Committer>,
        small_commands_max: usize,
    ) -> Self {
        Self {
            stage: Stage::new(state.next_position()),
            state,
            clock,
            backlog: VecDeque::new(),
            committer,
            small_commands_max,
            syncing: false,
            latched: false,
            stopping: false,
        }
    }

    /// Whether it was told to stop, and everything before that is answered.
    pub(crate) fn is_done(&self) -> bool {
        self.stopping && self.backlog.is_empty() && self.stage.is_empty() && !self.syncing
    }

    /// Whether [`Writer::step`] does nothing before there is more input.
    pub(crate) fn is_waiting(&self) -> bool {
        self.backlog.is_empty() || self.stage.is_full()
    }

    /// Whether a group was given out and is not committed yet.
    pub(crate) fn is_syncing(&self) -> bool {
        self.syncing
    }

    pub(crate) fn take(&mut self, input: Input) {
        match input {
            Input::Commands(submission) => self.backlog.push_back(submission),
            Input::Synced { latched } => {
                self.syncing = false;
                self.latched |= latched;
            }
            Input::Stop => self.stopping = true,
        }
    }

    /// Refuses or decides what waits, and commits what was decided if it is little. Gives a group
    /// that somebody else is to commit, and then to say so with [`Input::Synced`]: meanwhile there
    /// is no other one.
    pub(crate) fn step(&mut self) -> Option<Stage> {
        if self.latched {
            self.refuse_all(Failure::Latched);
        } else if let Some(failure) = self.committer.outlets().obstacle() {
            self.refuse_for_now(failure);
        }
        self.decide();
        self.next_group()
    }

    /// Decides what waits, as far as the group takes it.
    fn decide(&mut self) {
        let now_micros = self.clock.now_micros();
        while !self.stage.is_full()
            && let Some(submission) = self.backlog.pop_front()
        {
            self.stage.decide(&mut self.state, submission, now_micros);
        }
        let decided = self.state.next_position().saturating_sub(1);
        self.committer.outlets().figures.decided.set(decided);
    }

    /// The group that is to go to the disk, if somebody waits for it and none is on its way.
    fn next_group(&mut self) -> Option<Stage> {
        if self.syncing || self.stage.is_empty() {
            return None;
        }
        let mut stage = self.take_stage();
        let is_small = self.backlog.is_empty() && stage.command_count() <= self.small_commands_max;
        if is_small && let Ok(latched) = self.committer.try_commit(&mut stage) {
            self.latched = latched;
            return None;
        }
        self.syncing = true;
        Some(stage)
    }

    /// What was decided so far; what is decided from now on goes into the next group.
    fn take_stage(&mut self) -> Stage {
        let next = Stage::new(self.state.next_position());
        std::mem::replace(&mut self.stage, next)
    }

    /// Refuses all that has no answer yet. What was decided for it is not in the log.
    pub(crate) fn refuse_all(&mut self, failure: Failure) {
        let stage = self.take_stage();
        if !stage.pending.is_empty() {
            self.committer.outlets().answer(stage.pending, Err(failure));
        }
        self.refuse_backlog(failure);
    }

    /// Refuses what needs the log. Who only waits for what is under way does not, if that is
    /// nothing; and who repeats commands that were decided hears what they come to, which nobody
    /// knows of those under way.
    fn refuse_for_now(&mut self, failure: Failure) {
        // Whose callers have left do not keep their places from others meanwhile.
        let left = self.stage.pending.extract_if(.., |pending| pending.is_left_repeat());
        let left: Vec<Pending> = left.collect();
        if !left.is_empty() {
            self.committer.outlets().answer(left, Err(failure));
        }
        let nothing_waits = !self.syncing && self.stage.group.is_empty();
        let state = &self.state;
        let needs_none = |it: &Submission| {
            let is_question = it.commands.is_empty();
            (is_question && nothing_waits)
                || (!is_question && it.commands.iter().all(|command| state.remembers(command)))
        };
        let (kept, refused) = self.backlog.drain(..).partition(needs_none);
        self.backlog = refused;
        self.refuse_backlog(failure);
        self.backlog = kept;
    }

    fn refuse_backlog(&mut self, failure: Failure) {
        if self.backlog.is_empty() {
            return;
        }
        let refused = self.backlog.drain(..).map(Submission::refused);
        self.committer.outlets().answer(refused.collect(), Err(failure));
    }
}
