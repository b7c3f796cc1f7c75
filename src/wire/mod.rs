//! The wire: presents the ledger over gRPC.
//!
//! It owns how calls are let in, how requests become commands and questions, and how outcomes and
//! failures become messages and statuses. Who may do what it asks the room of access. It must not
//! decide anything about money, and no text, path or number of our insides may leave through it.

mod ahead;
mod arriving;
mod aside;
mod batch;
mod call_line;
mod command_service;
mod deadline;
mod elsewhere;
mod entrance;
mod form;
mod front;
mod guarded;
mod held;
mod lane;
mod late;
mod leaving;
mod meter;
mod metered;
mod methods;
mod nearby;
mod page_token;
mod parse;
mod passed_on;
mod peer;
mod permit;
mod query_service;
mod reads;
mod render;
mod room;
mod status;
mod tail;

pub use command_service::{Commands, Desk};
pub use elsewhere::{Connect, Elsewhere, Whose};
pub use entrance::Entrance;
pub use front::Front;
pub use late::Late;
pub use leaving::until_taken;
pub use meter::{CODES, Meter, Refusals};
pub use metered::{Metered, Named};
pub use methods::{METHODS, Method, MethodKind};
pub use passed_on::PassedOn;
pub use peer::Peer;
pub use query_service::Queries;
pub use reads::{KeepsUp, Reads};
pub(crate) use status::stopping;

/// How large a message of ours may be, in bytes: what most gRPC clients take by default.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
