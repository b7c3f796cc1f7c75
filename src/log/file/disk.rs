//! The disk seam: everything the engine does to a medium goes through two small traits.
//!
//! One [`Disk`] is one directory; files are known by name. [`StdDisk`] is the file system. Tests
//! and simulations put a disk of their own here, which fails, tears and forgets as real ones do.
//! The loops over short and interrupted calls stand above the seam, once, so that every disk is
//! served alike.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::bytes::wide;

/// The file that is locked while the directory is in use.
pub const LOCK_FILE: &str = "lock";

/// How much of the lock file is shown: its content is information, and anybody may have put it.
const HOLDER_BYTES_MAX: u64 = 64;

/// One directory. Names are plain file names without a path.
pub trait Disk: Send + Sync {
    /// Tries to become the only user of the directory. Held until the guard is dropped, and ends
    /// with the process in any case.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    fn try_lock(&self) -> io::Result<Lock>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file for reading and writing. Its entry is durable after
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when there is one of that name; or when it cannot be made.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing; on a disk that is only read, for reading.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; or when it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When the file cannot be renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; or when it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all entries of the directory durable.
    ///
    /// # Errors
    /// When that failed; what is durable is unknown then.
    fn sync_dir(&self) -> io::Result<()>;
}

/// What came of trying to lock a directory.
pub enum Lock {
    /// The caller holds it as long as it keeps this guard.
    Held(Box<dyn Send + Sync>),
    /// Somebody else holds it: what they wrote about themselves.
    Taken(String),
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Reads bytes at an offset and says how many: fewer than asked for are no failure, none
    /// means that the file ends there, as [`DiskFile::length`] has to confirm.
    ///
    /// # Errors
    /// When they cannot be read; [`ErrorKind::Interrupted`] asks to try again.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes bytes at an offset and says how many: fewer than given are no failure.
    ///
    /// # Errors
    /// When they cannot be written; [`ErrorKind::Interrupted`] asks to try again.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Cuts or extends the file, with zeros.
    ///
    /// # Errors
    /// When that failed.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes the file's bytes and its length durable.
    ///
    /// # Errors
    /// When that failed; what is durable is unknown then, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// When it cannot be told.
    fn length(&self) -> io::Result<u64>;

    /// Lets go what was read of the file from an offset on, as far as it is kept anywhere and that
    /// can be asked for: what is read there next comes from the medium. What was written and is on
    /// its way to the medium stays.
    fn forget(&self, offset: u64);
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut offset = offset;
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset = offset.saturating_add(wide(written));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends, and says how many bytes there were.
///
/// # Errors
/// When they cannot be read; [`ErrorKind::UnexpectedEof`] when a read says that the file ends
/// where it does not. Who took that for an end would cut off what is behind it.
pub(super) fn read_up_to(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0_usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(wide(done))) {
            Ok(0) => {
                let (end, length) = (offset.saturating_add(wide(done)), file.length()?);
                if end < length {
                    let text = format!("a read ended at byte {end} of {length}");
                    return Err(Error::new(ErrorKind::UnexpectedEof, text));
                }
                break;
            }
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A directory of the file system.
#[derive(Debug)]
pub struct StdDisk {
    path: PathBuf,
    directory: File,
    writable: bool,
}

impl StdDisk {
    /// Opens a directory for a log that is going to be written, and makes it durably if there is
    /// none. Only its owner may enter what is made here.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        create_directory(path).map_err(|error| named(&error, &path.display().to_string()))?;
        Self::at(path, true)
    }

    /// Opens a directory that exists, and never writes to it.
    ///
    /// # Errors
    /// When there is none or it cannot be opened.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        Self::at(path, false)
    }

    fn at(path: &Path, writable: bool) -> io::Result<Self> {
        let directory =
            File::open(path).map_err(|error| named(&error, &path.display().to_string()))?;
        Ok(Self { path: path.to_path_buf(), directory, writable })
    }

    fn open_file(&self, name: &str, create_new: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(self.writable)
            .create_new(create_new)
            .mode(0o600)
            .open(self.path.join(name))
            .map_err(|error| named(&error, name))?;
        Ok(Arc::new(file))
    }

    fn open_lock_file(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(self.writable).create(self.writable).mode(0o600);
        match options.open(self.path.join(LOCK_FILE)) {
            Ok(file) => Ok(Some(file)),
            // A directory that never had an owner has none now.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.writable => Ok(None),
            Err(error) => Err(named(&error, LOCK_FILE)),
        }
    }
}

impl Disk for StdDisk {
    fn try_lock(&self) -> io::Result<Lock> {
        let Some(mut file) = self.open_lock_file()? else {
            return Ok(Lock::Held(Box::new(())));
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = Vec::new();
                (&file).take(HOLDER_BYTES_MAX).read_to_end(&mut holder)?;
                return Ok(Lock::Taken(String::from_utf8_lossy(&holder).trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(named(&error, LOCK_FILE)),
        }
        // Information only: a full disk must not keep a log from starting.
        if self.writable
            && let Err(error) = tell_holder(&mut file)
        {
            tracing::warn!(%error, file = LOCK_FILE, "cannot note who uses the directory");
        }
        Ok(Lock::Held(Box::new(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is no text is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(name, true)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(name, false)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to)).map_err(|e| named(&e, from))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name)).map_err(|error| named(&error, name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn forget(&self, offset: u64) {
        let _where_that_is_known = fadvise(self, offset, None, Advice::DontNeed);
    }
}

/// Writes into the lock file who holds it.
fn tell_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("pid {}\n", std::process::id()).as_bytes())
}

/// Makes a directory and those above it that are missing, and makes the entries of all of them
/// durable: an earlier start may have made some, and ended before it came to that.
fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    let path = path.canonicalize()?;
    let device = path.metadata()?.dev();
    // An entry of another file system is no entry of ours.
    for parent in path.ancestors().skip(1) {
        if parent.metadata()?.dev() != device {
            break;
        }
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // Who may not read it has made nothing in it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// The same error, with the name of what it happened to.
fn named(error: &Error, name: &str) -> Error {
    Error::new(error.kind(), format!("{name}: {error}"))
}
