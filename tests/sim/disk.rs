//! A disk in memory that does what real disks do on their bad days.
//!
//! - Bytes written but not synced are seen by every reader, and at a crash any sector of them is
//!   there, is not, or is garbage. Entries of the directory likewise.
//! - A sync that fails leaves its sectors readable but forgets that they were never stored: the
//!   next sync succeeds without them. That is what Linux does.
//! - The n-th call of a kind fails; calls are short or interrupted; space runs out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::file::{Disk, DiskFile, Lock};

pub(crate) const SECTOR: usize = 512;

/// A small generator: the same seed gives the same run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// Calls that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    Create,
    Rename,
    Remove,
    SyncDir,
}

/// What goes wrong from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// How many more changing calls succeed before one fails, and how.
    pub(crate) fail_after: Option<(usize, ErrorKind)>,
    /// How many more syncs succeed before one fails.
    pub(crate) fail_sync_after: Option<usize>,
    /// Whether calls are short and interrupted now and then.
    pub(crate) short: bool,
    /// How many bytes all files may have together.
    pub(crate) capacity: Option<usize>,
}

/// How a read fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadFault {
    /// With an error.
    Error,
    /// It says that the file ends there.
    End,
    /// It gives what is at another place of the file.
    Misdirected,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Entries as they became after each call that is not durable yet.
    pending: Vec<BTreeMap<String, usize>>,
    /// How often it has crashed, and in which of these lives it is locked.
    life: u64,
    locked_in: Option<u64>,
    faults: Faults,
    /// How many more reads succeed before one fails, and how.
    read_fault: Option<(usize, ReadFault)>,
    calls: Vec<Call>,
    failures: u64,
    failed_syncs: u64,
    rng: Rng,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<World>>);

/// All files with their bytes.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self::of(&Image::new(), seed)
    }

    /// A disk that has exactly these files, durable.
    pub(crate) fn of(image: &Image, seed: u64) -> Self {
        let inode = |bytes: &Vec<u8>| Inode {
            bytes: bytes.clone(),
            durable: bytes.clone(),
            dirty: BTreeSet::new(),
        };
        let names: BTreeMap<_, _> = image.keys().cloned().zip(0..).collect();
        Self(Arc::new(Mutex::new(World {
            inodes: image.values().map(inode).collect(),
            names: names.clone(),
            durable_names: names,
            pending: Vec::new(),
            life: 0,
            locked_in: None,
            faults: Faults::default(),
            read_fault: None,
            calls: Vec::new(),
            failures: 0,
            failed_syncs: 0,
            rng: Rng(seed),
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Fails the read after so many others, or none.
    pub(crate) fn set_read_fault(&self, fault: Option<(usize, ReadFault)>) {
        self.world().read_fault = fault;
    }

    /// Whether the read that was to fail has failed.
    pub(crate) fn has_failed_a_read(&self) -> bool {
        self.world().read_fault.is_none()
    }

    /// How many bytes all files may have together from now on.
    pub(crate) fn set_capacity(&self, capacity: Option<usize>) {
        self.world().faults.capacity = capacity;
    }

    /// Whether the call that was to fail has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.world().faults.fail_after.is_none()
    }

    /// The calls since the last time this was asked.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.world().calls)
    }

    /// Changes a byte that is at rest.
    pub(crate) fn poke(&self, name: &str, at: usize, byte: u8) {
        let mut world = self.world();
        let inode = world.names[name];
        world.inodes[inode].bytes[at] = byte;
        world.inodes[inode].durable[at] = byte;
    }

    /// What a reader sees now.
    pub(crate) fn image(&self) -> Image {
        let world = self.world();
        let file =
            |(name, inode): (&String, &usize)| (name.clone(), world.inodes[*inode].bytes.clone());
        world.names.iter().map(file).collect()
    }

    /// How many calls have failed on request, or for want of room.
    pub(crate) fn failures(&self) -> u64 {
        self.world().failures
    }

    /// How many of them were syncs.
    pub(crate) fn failed_syncs(&self) -> u64 {
        self.world().failed_syncs
    }

    /// The power goes. Nobody may use what was open before.
    pub(crate) fn crash(&self) {
        let mut world = self.world();
        let World { inodes, names, durable_names, pending, life, rng, faults, .. } = &mut *world;
        *faults = Faults::default();
        *life += 1;
        pending.insert(0, durable_names.clone());
        *names = pending[rng.below(pending.len())].clone();
        *durable_names = names.clone();
        pending.clear();
        for inode in inodes {
            inode.lose_power(rng);
        }
    }
}

impl Inode {
    fn lose_power(&mut self, rng: &mut Rng) {
        let mut survived = self.durable.clone();
        if rng.one_in(2) {
            survived.resize(self.bytes.len(), 0);
        }
        // Whole crashes differ: nothing lost, all lost, or a mixture.
        let style = rng.below(4);
        for sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(survived.len()).min(self.bytes.len());
            let fate = if style < 3 { style } else { rng.below(3) };
            match (survived.get_mut(start..end), fate) {
                (Some(kept), 1) => kept.copy_from_slice(&self.bytes[start..end]),
                (Some(kept), 2) if rng.one_in(2) => kept.fill_with(|| rng.next().to_le_bytes()[0]),
                _ => {}
            }
        }
        self.bytes.clone_from(&survived);
        self.durable = survived;
        self.dirty.clear();
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let end = ((sector + 1) * SECTOR).min(self.bytes.len());
            let range = (sector * SECTOR).min(end)..end;
            self.durable[range.clone()].copy_from_slice(&self.bytes[range]);
        }
    }
}

impl World {
    /// Counts a call, and fails it if it is its turn.
    fn call(&mut self, call: Call) -> io::Result<()> {
        self.calls.push(call);
        let is_sync = matches!(call, Call::Sync | Call::SyncDir);
        let mut failed = None;
        if let Some((left, kind)) = &mut self.faults.fail_after {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => failed = Some(*kind),
            }
        }
        if failed.is_some() {
            self.faults.fail_after = None;
        }
        if let Some(left) = self.faults.fail_sync_after.filter(|_| is_sync) {
            self.faults.fail_sync_after = left.checked_sub(1);
            failed = failed.or((left == 0).then_some(ErrorKind::Other));
        }
        let Some(kind) = failed else { return Ok(()) };
        self.failures += 1;
        self.failed_syncs += u64::from(is_sync);
        Err(Error::new(kind, "injected"))
    }

    /// Counts a read, and tells how it fails if it is its turn.
    fn read(&mut self) -> Option<ReadFault> {
        let (left, fault) = self.read_fault.as_mut()?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let fault = *fault;
        self.read_fault = None;
        Some(fault)
    }

    /// How much of a call is done.
    fn shorten(&mut self, length: usize) -> io::Result<usize> {
        if !self.faults.short || length == 0 {
            return Ok(length);
        }
        if self.rng.one_in(4) {
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(if self.rng.one_in(2) { 1 + self.rng.below(length) } else { length })
    }

    fn entries_changed(&mut self) {
        let names = self.names.clone();
        self.pending.push(names);
    }

    fn room_for(&self, inode: usize, end: usize) -> usize {
        let used: usize = self.names.values().map(|inode| self.inodes[*inode].bytes.len()).sum();
        let more = end.saturating_sub(self.inodes[inode].bytes.len());
        let capacity = self.faults.capacity.unwrap_or(usize::MAX);
        more.saturating_sub(capacity.saturating_sub(used))
    }
}

impl Disk for SimDisk {
    fn try_lock(&self) -> io::Result<Lock> {
        let mut world = self.world();
        if world.locked_in == Some(world.life) {
            return Ok(Lock::Taken("the test".to_owned()));
        }
        world.locked_in = Some(world.life);
        Ok(Lock::Held(Box::new(Guard { disk: self.clone(), life: world.life })))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.world().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.call(Call::Create)?;
        if world.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.names.insert(name.to_owned(), inode);
        world.entries_changed();
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = *self.world().names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        world.call(Call::Rename)?;
        let inode = world.names.remove(from).ok_or(ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), inode);
        world.entries_changed();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        if !world.names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        world.call(Call::Remove)?;
        world.names.remove(name);
        world.entries_changed();
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = self.world();
        world.call(Call::SyncDir)?;
        world.durable_names = world.names.clone();
        world.pending.clear();
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn forget(&self, _offset: u64) {}

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        let wanted = world.shorten(buffer.len())?;
        let length = world.inodes[self.inode].bytes.len();
        let start = usize::try_from(offset).unwrap().min(length);
        let end = (start + wanted).min(length);
        // At the end of the file it would be no lie to say so.
        match if start < end { world.read() } else { None } {
            Some(ReadFault::Error) => return Err(Error::other("injected")),
            Some(ReadFault::End) => return Ok(0),
            Some(ReadFault::Misdirected) => {
                let from = world.rng.below(length) / SECTOR * SECTOR + start % SECTOR;
                let bytes = world.inodes[self.inode].bytes.get(from..).unwrap_or_default();
                let count = (end - start).min(bytes.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                return Ok(count);
            }
            None => {}
        }
        let bytes = &world.inodes[self.inode].bytes;
        buffer[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        let offset = usize::try_from(offset).unwrap();
        let count = world.shorten(bytes.len())?;
        if let Err(error) = world.call(Call::Write) {
            // Some of it may have got through.
            let part = world.rng.below(bytes.len() + 1);
            world.inodes[self.inode].write(&bytes[..part], offset);
            return Err(error);
        }
        let missing = world.room_for(self.inode, offset + count);
        if missing >= count && count > 0 {
            world.failures += 1;
            return Err(ErrorKind::StorageFull.into());
        }
        world.inodes[self.inode].write(&bytes[..count - missing], offset);
        Ok(count - missing)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.call(Call::Write)?;
        world.inodes[self.inode].bytes.resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        if let Err(error) = world.call(Call::Sync) {
            world.inodes[self.inode].dirty.clear();
            return Err(error);
        }
        world.inodes[self.inode].sync();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.disk.world().inodes[self.inode].bytes.len()).unwrap())
    }
}

/// Unlocks, unless the power went in between.
struct Guard {
    disk: SimDisk,
    life: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.locked_in == Some(self.life) {
            world.locked_in = None;
        }
    }
}
