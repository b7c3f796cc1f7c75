//! What a command prints, whether or not somebody still reads it.
//!
//! Who reads only the beginning, as `head` does, has what he wanted: that is no failure. And where
//! standard error is gone, the exit code is what is left to tell.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Prints on standard output what was asked for, as far as it is read.
///
/// # Errors
/// When it cannot be written, and not because its reader has left.
pub fn print(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = write(&mut out).and_then(|()| out.flush());
    written.or_else(|error| if has_left(&error) { Ok(()) } else { Err(error) })
}

/// Tells something beside the output, on standard error, if that is still there.
pub fn tell(what: fmt::Arguments<'_>) {
    let _nobody_may_read_it = writeln!(io::stderr().lock(), "{what}");
}

/// Whether whoever read the output has left.
pub(super) fn has_left(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
