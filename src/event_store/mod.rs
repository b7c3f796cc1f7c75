//! The event store: joins the domain and the log.
//!
//! It owns the one writer: the current state of all accounts, the window of request ids, and the
//! end of the log that appends. Commands come in through a bounded mailbox; each is decided in
//! memory on the state that the one before it left; what they record is committed in groups; and
//! only when a group is durable are its commands answered and its events shown. It also owns how
//! an entry becomes bytes and how earlier entries are found again. It must not know how a command
//! arrived or how an answer is rendered.

mod actor;
mod chain;
mod codec;
mod committer;
mod doorbell;
mod entry;
mod event_id;
mod few;
mod figures;
mod history;
mod stage;
mod state;
mod turns;
mod varint;
mod window;
mod writer;

#[cfg(test)]
mod tests;

/// For what has to hold for any entry.
#[cfg(test)]
pub(crate) use self::tests::codec::any_entry;

/// For the simulation, which drives the store in one thread, and for the sum of all limits.
#[cfg(test)]
pub(crate) use self::{
    committer::{Committer, Outlets, Settled},
    stage::{GROUP_BYTES_TARGET, Stage, Submission},
    writer::{Input, Writer},
};
pub use actor::{EventStore, MAILBOX_COMMANDS_MAX, Parts, Places, Stopper, start};
pub use chain::{Chain, Versions};
pub use codec::{Codec, Malformed};
pub use committer::StoreStatus;
pub use entry::{AccountLink, Entry, EntryAccount, Numbered, SagaEnd, SagaLink};
pub use event_id::EventIds;
pub use few::Few;
pub use figures::Figures;
pub use history::{Cursor, History, HistoryError};
pub use stage::{Answer, Detail, Failure, Outcome};
pub use state::{ReplayError, State, Verdict};
pub(crate) use varint::{Reader, put_number};
pub use window::{REQUEST_ID_WINDOW_DEFAULT, REQUEST_ID_WINDOW_RANGE};
