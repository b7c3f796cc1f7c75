//! A disk in memory: what is written is there at once, and nothing is ever lost.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use daybook::log::file::{Disk, DiskFile, Lock};

/// How large a file may become: far more than any log here, and little enough that a wild offset
/// takes no memory.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All files with their bytes.
pub type Image = BTreeMap<String, Vec<u8>>;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Directory>);

#[derive(Default)]
struct Directory {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
    is_locked: Arc<AtomicBool>,
}

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

/// Unlocks the directory.
struct Guard(Arc<AtomicBool>);

impl MemoryDisk {
    /// A disk that has exactly these files.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let file = |bytes: &Vec<u8>| Arc::new(MemoryFile(Mutex::new(bytes.clone())));
        let files = image.iter().map(|(name, bytes)| (name.clone(), file(bytes))).collect();
        Self(Arc::new(Directory { files: Mutex::new(files), ..Directory::default() }))
    }

    /// All that is on it.
    #[must_use]
    pub fn image(&self) -> Image {
        let files = lock(&self.0.files);
        files.iter().map(|(name, file)| (name.clone(), lock(&file.0).clone())).collect()
    }
}

impl Disk for MemoryDisk {
    fn try_lock(&self) -> io::Result<Lock> {
        if self.0.is_locked.swap(true, Ordering::SeqCst) {
            return Ok(Lock::Taken("somebody".to_owned()));
        }
        Ok(Lock::Held(Box::new(Guard(Arc::clone(&self.0.is_locked)))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0.files).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.0.files);
        if files.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(MemoryFile::default());
        files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = lock(&self.0.files).get(name).cloned();
        Ok(file.ok_or(ErrorKind::NotFound)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0.files);
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0.files).remove(name).map(|_| ()).ok_or(ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    /// Nothing is kept of it anywhere else.
    fn forget(&self, _offset: u64) {}

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = lock(&self.0);
        let rest = bytes.get(place(offset)?..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, written: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = lock(&self.0);
        let start = place(offset)?;
        let end = start.saturating_add(written.len());
        if end > FILE_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(written);
        Ok(written.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if place(length)? > FILE_BYTES_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        lock(&self.0).resize(place(length)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(u64::try_from(lock(&self.0).len()).unwrap_or(u64::MAX))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// An offset as the file systems take it: they have no negative ones.
fn place(offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
    usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
