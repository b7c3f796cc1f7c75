//! The command line, and the environment for what it does not say.
//!
//! It owns which variables count as set, and that a wrong value is told with the place it is from.
//! It must not know which flags there are.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, Command, Id, Parser,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

use super::environment;

/// Reads the command line of the process, and the variables of those flags that it does not have.
/// A variable that is empty counts as one that is not set, and so does one whose flag would
/// conflict with a flag that the line has.
///
/// # Errors
/// [`clap::Error`] when something is not right, or when help was asked for. The value of a variable
/// is told with the variable's name.
pub fn read_command_line<P: Parser>() -> Result<P, clap::Error> {
    let line: Vec<OsString> = std::env::args_os().collect();
    let mut command = without_beaten(without_empty(P::command()), &line);
    let matches = command.try_get_matches_from_mut(&line);
    let parsed = matches.and_then(|mut matches| P::from_arg_matches_mut(&mut matches));
    match parsed {
        // The help tells of all variables, also of those that are empty.
        Err(error) if !error.use_stderr() => P::try_parse_from(line),
        parsed => parsed.map_err(|error| named(error.format(&mut command), &command, &line)),
    }
}

/// What the names of our variables begin with.
const PREFIX: &str = "DAYBOOK_";
/// And those that are there for our tests.
const TESTS: &str = "DAYBOOK_TEST_";
/// What is in the names of variables by which Kubernetes tells of a service, which may be called as
/// ours are.
const OF_SERVICES: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];

/// The variables that look like ours and are read by no flag of a command, nor of those below it:
/// whoever set one has mistaken its name.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "only names are looked at, of what is no setting")]
pub fn unknown_variables(command: &Command) -> Vec<String> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    set.filter(|name| is_unknown(command, name)).collect()
}

fn is_unknown(command: &Command, name: &str) -> bool {
    let is_of_service =
        OF_SERVICES.iter().any(|part| name.contains(part)) || name.ends_with("_PORT");
    name.starts_with(PREFIX) && !name.starts_with(TESTS) && !is_of_service && !reads(command, name)
}

/// Whether some flag reads this variable.
fn reads(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_env().is_some_and(|env| env == name))
        || command.get_subcommands().any(|command| reads(command, name))
}

/// The same command, for which those variables are not set that are empty.
fn without_empty(command: Command) -> Command {
    let without = |argument: Arg| {
        let is_empty = argument.get_env().is_some_and(environment::is_empty);
        if is_empty { argument.env(Resettable::Reset) } else { argument }
    };
    command.mut_args(without).mut_subcommands(without_empty)
}

/// The same command, for which those variables are not set whose flags conflict with one that the
/// line has: what is said now counts more than what was set once.
fn without_beaten(command: Command, line: &[OsString]) -> Command {
    let is_given = |argument: &Arg| {
        argument.get_long().is_some_and(|long| has_flag(line, &format!("--{long}")))
    };
    let conflict = |one: &Arg, other: &Arg| {
        let found = command.get_arg_conflicts_with(one);
        found.iter().any(|found| found.get_id() == other.get_id())
    };
    let is_beaten = |argument: &&Arg| {
        let mut given = command.get_arguments().filter(|other| is_given(other));
        argument.get_env().is_some()
            && !is_given(argument)
            && given.any(|other| conflict(argument, other) || conflict(other, argument))
    };
    let beaten = command.get_arguments().filter(is_beaten).map(|it| it.get_id().clone());
    let beaten: Vec<Id> = beaten.collect();
    let without = |command: Command, id: Id| command.mut_arg(id, |it| it.env(Resettable::Reset));
    let command = beaten.into_iter().fold(command, without);
    command.mut_subcommands(|command| without_beaten(command, line))
}

/// Whether a line has a flag, with its value in the same word or in the next one.
fn has_flag(line: &[OsString], flag: &str) -> bool {
    line.iter().any(|word| {
        word.to_string_lossy().split_once('=').map_or(word == flag, |(name, _)| name == flag)
    })
}

/// The same error, with the name of a variable in place of a flag that the line does not have.
fn named(mut error: clap::Error, command: &Command, line: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = argument.split([' ', '[', '=']).next().unwrap_or_default();
    let variable = variable_of(command, flag).filter(|_| !has_flag(line, flag));
    if let Some(variable) = variable.map(|variable| variable.to_string_lossy().into_owned()) {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

/// The variable of a flag, which is the same in all commands that have it.
fn variable_of<'a>(command: &'a Command, flag: &str) -> Option<&'a OsStr> {
    let name = flag.strip_prefix("--")?;
    let mut own = command.get_arguments().filter(|argument| argument.get_long() == Some(name));
    let own = own.find_map(Arg::get_env);
    own.or_else(|| command.get_subcommands().find_map(|command| variable_of(command, flag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_variable_of_another_one() {
        let arguments = [
            Arg::new("data_dir").long("data-dir").env("A"),
            Arg::new("database_url").long("database-url").env("B").conflicts_with("data_dir"),
            Arg::new("other").long("other").env("C"),
        ];
        let command = Command::new("daybook").subcommand(Command::new("verify").args(arguments));
        for (line, left) in [
            (&["daybook", "verify"][..], &["A", "B", "C"][..]),
            (&["daybook", "verify", "--data-dir", "x"], &["A", "C"]),
            (&["daybook", "verify", "--database-url=x"], &["B", "C"]),
            (&["daybook", "verify", "--data-dir", "x", "--database-url=x"], &["A", "B", "C"]),
        ] {
            let words: Vec<OsString> = line.iter().map(OsString::from).collect();
            let command = without_beaten(command.clone(), &words);
            let verify = command.find_subcommand("verify").unwrap();
            let variables: Vec<_> = verify.get_arguments().filter_map(Arg::get_env).collect();
            assert_eq!(variables, left, "{line:?}");
        }
    }

    #[test]
    fn a_variable_that_nothing_reads_is_found() {
        let below = Command::new("tail").arg(Arg::new("address").env("DAYBOOK_ADDRESS"));
        let command = Command::new("daybook")
            .arg(Arg::new("data_dir").env("DAYBOOK_DATA_DIR"))
            .subcommand(below);
        for (name, unknown) in [
            ("DAYBOOK_DATADIR", true),
            ("DAYBOOK_DATA_DIR", false),
            ("DAYBOOK_ADDRESS", false),
            ("DAYBOOK_TEST_SEED", false),
            ("DATADIR", false),
            // What a pod is told of services that are called daybook and daybook-read.
            ("DAYBOOK_SERVICE_HOST", false),
            ("DAYBOOK_SERVICE_PORT_GRPC", false),
            ("DAYBOOK_PORT", false),
            ("DAYBOOK_READ_PORT_50051_TCP_ADDR", false),
        ] {
            assert_eq!(is_unknown(&command, name), unknown, "{name}");
        }
    }
}
