//! Limits: how much clients may take of the server, together and each.

use std::{fmt, time::Duration};

use super::ServeArgs;

/// How much clients may take of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be at once; who comes then waits until one is closed. Each
    /// may take a few hundred kilobytes, and one file.
    pub connections: usize,
    /// How many of them may come from one address; one more is closed at once.
    pub connections_per_address: usize,
    /// How many calls one connection may have open at once. What a client begins beyond that waits
    /// at the client and costs the server nothing, while turning a call away costs it half as much
    /// as carrying it out; but one connection can still fill a group.
    pub streams_per_connection: u32,
    /// How long a connection is used before its client is asked to open another; those calls that
    /// are open go on. Zero for as long as it likes, as by default: some clients, tonic's among
    /// them, learn of it by a call that they cancel.
    pub connection_age: Duration,
    /// How many calls of each of the two services may be under way at once, streams not counted:
    /// reads that wait for a position are not to be in the way of commands. To refuse a call costs
    /// half as much as to carry it out: of twice as many as there can be hardly any is carried out
    /// where many are refused; with a quarter of the default one in nine was. At the speed of
    /// single commands on two cores the last of them waits about a fifth of a second; each takes
    /// about 8 KiB.
    pub calls: usize,
    /// How long one may take, its message included, whatever its caller says, and how long its
    /// peer may then take to take the answer. Streams may take longer, but not to be opened, and
    /// no longer than this for a message that has begun to come.
    pub call_time: Duration,
    /// How large a message of a client may be, in bytes: by default what most gRPC clients take,
    /// and not more, because the largest batch has to fit into a group of the log.
    pub message_bytes: usize,
    /// How large the metadata of a call may be, in bytes.
    pub header_bytes: u32,
    /// How many tails there may be at once.
    pub tails: usize,
    /// How many streams of commands there may be at once, on all connections together. One whose
    /// client takes no answers may keep about 30 MiB; there is one writer, and a few streams keep
    /// it busy.
    pub command_streams: usize,
    /// How many streams there may be at once that are neither tails nor of commands: watches of
    /// health, and reflection. Each takes about 20 KiB while nothing happens, and nothing else
    /// bounds how many clients leave open. By default one for each connection.
    pub streams: usize,
    /// How many commands a batch may have: by default as many as a batch of TigerBeetle's, so that
    /// figures can be compared, and few enough that one fits in a message and in a group.
    pub batch_commands: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_per_address: 256,
            streams_per_connection: 256,
            connection_age: Duration::ZERO,
            calls: 16_384,
            call_time: Duration::from_secs(10),
            message_bytes: 4 * 1024 * 1024,
            header_bytes: 16 * 1024,
            tails: 1_024,
            command_streams: 64,
            streams: 1_024,
            batch_commands: 8_190,
        }
    }
}

impl Limits {
    pub(super) fn of(given: &ServeArgs) -> Self {
        let default = Self::default();
        Self {
            connections: fitted(given.max_connections, default.connections),
            connections_per_address: fitted(
                given.max_connections_per_address,
                default.connections_per_address,
            ),
            streams_per_connection: fitted(
                given.max_streams_per_connection,
                default.streams_per_connection,
            ),
            connection_age: given.max_connection_age.unwrap_or(default.connection_age),
            calls: fitted(given.max_calls, default.calls),
            call_time: given.max_call_time.unwrap_or(default.call_time),
            message_bytes: fitted(given.max_message_bytes, default.message_bytes),
            header_bytes: fitted(given.max_header_bytes, default.header_bytes),
            tails: fitted(given.max_tails, default.tails),
            command_streams: fitted(given.max_command_streams, default.command_streams),
            streams: fitted(given.max_streams, default.streams),
            batch_commands: fitted(given.max_batch_commands, default.batch_commands),
        }
    }
}

/// A number that is within its range, and so within its type.
pub(super) fn fitted<T: TryFrom<u64>>(given: Option<u64>, default: T) -> T {
    given.and_then(|given| T::try_from(given).ok()).unwrap_or(default)
}

/// As lines of a configuration file.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "max_connections = {}", self.connections)?;
        writeln!(f, "max_connections_per_address = {}", self.connections_per_address)?;
        writeln!(f, "max_streams_per_connection = {}", self.streams_per_connection)?;
        writeln!(f, "max_connection_age = \"{}ms\"", self.connection_age.as_millis())?;
        writeln!(f, "max_calls = {}", self.calls)?;
        writeln!(f, "max_call_time = \"{}ms\"", self.call_time.as_millis())?;
        writeln!(f, "max_message_bytes = {}", self.message_bytes)?;
        writeln!(f, "max_header_bytes = {}", self.header_bytes)?;
        writeln!(f, "max_tails = {}", self.tails)?;
        writeln!(f, "max_command_streams = {}", self.command_streams)?;
        writeln!(f, "max_streams = {}", self.streams)?;
        writeln!(f, "max_batch_commands = {}", self.batch_commands)
    }
}
