//! `daybook token`: makes a bearer token, or tells the hash of one.

use std::io::{self, Read as _};

use super::{CliError, output};
use crate::{
    access::{TOKEN_BYTES_MAX, hash_of, new_token},
    domain::{Principal, TextError},
};

/// Makes a random bearer token of 256 bits. Prints it, and the lines of the credentials file that
/// know it by its hash: the token itself is kept nowhere.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// The name of the principal in those lines: 1 to 128 characters
    #[arg(long, value_name = "NAME", default_value = "somebody", value_parser = name)]
    name: String,

    /// What it may do: reader, writer or admin
    #[arg(long, value_name = "ROLE", default_value = "reader")]
    #[arg(value_parser = ["reader", "writer", "admin"])]
    role: String,

    /// Read a token from standard input instead, and print only its hash
    #[arg(long, conflicts_with_all = ["name", "role"])]
    hash: bool,
}

/// Runs `daybook token`.
///
/// # Errors
/// [`CliError`] when standard input has no token, or there are no random numbers.
pub fn token(args: &TokenArgs) -> Result<(), CliError> {
    if args.hash {
        let hash = hash_of(&read_token(io::stdin().lock())?)?;
        return Ok(output::print(|out| writeln!(out, "{hash}"))?);
    }
    let token = new_token()?;
    let hash = hash_of(&token)?;
    let TokenArgs { name, role, hash: _ } = args;
    // TOML quotes a text as JSON does.
    let name = serde_json::Value::from(name.as_str());
    Ok(output::print(|out| {
        writeln!(out, "{token}\n\n[[principal]]\nname = {name}\nrole = \"{role}\"")?;
        writeln!(out, "token_sha256 = [\"{hash}\"]")
    })?)
}

/// Finds a name to be one, by the rule of the credentials file.
fn name(text: &str) -> Result<String, TextError> {
    Principal::new(text).map(|_| text.to_owned())
}

/// The token that a stream consists of, with or without blanks and an end of line around it.
pub(super) fn read_token(from: impl io::Read) -> Result<String, CliError> {
    let limit = u64::try_from(TOKEN_BYTES_MAX).unwrap_or(u64::MAX).saturating_mul(2);
    let mut text = String::new();
    from.take(limit).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}
