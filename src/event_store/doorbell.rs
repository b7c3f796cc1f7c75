//! The doorbell: wakes the writer when there is something worth waking for.
//!
//! While a group is being synced, the writer can send no other one: commands that trickle in then
//! need not wake it, they are decided together when the sync is done. That spares most of the
//! switches between threads that single commands would cost. A batch is worth waking for, so that
//! it is decided while the disk works.

use std::sync::PoisonError;

use super::turns::{Condvar, Mutex, MutexGuard};

/// So many commands that come in together are worth waking for during a sync: deciding them takes
/// about as long as waking.
const MANY_COMMANDS: usize = 32;

/// What the writer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sleep {
    /// Nothing: it is awake.
    #[default]
    Awake,
    /// Anything.
    Idle,
    /// The end of a sync, or many commands.
    Syncing,
}

/// A bell at the writer's door.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    sleep: Mutex<Sleep>,
    rung: Condvar,
}

impl Doorbell {
    /// Says that so many commands are in the mailbox now.
    pub(crate) fn ring_for(&self, commands: usize) {
        let sleep = self.lock();
        match *sleep {
            Sleep::Idle => self.wake(sleep),
            Sleep::Syncing if commands >= MANY_COMMANDS => self.wake(sleep),
            Sleep::Awake | Sleep::Syncing => {}
        }
    }

    /// Says that something has come that must not wait.
    pub(crate) fn ring(&self) {
        self.wake(self.lock());
    }

    fn wake(&self, mut sleep: MutexGuard<'_, Sleep>) {
        if *sleep != Sleep::Awake {
            *sleep = Sleep::Awake;
            drop(sleep);
            self.rung.notify_one();
        }
    }

    /// Sleeps until it rings, unless `look` finds something. The bell is armed before that: who
    /// comes too late to be found rings, and who rings too early is found.
    pub(crate) fn sleep<T>(&self, is_syncing: bool, look: impl FnOnce() -> Option<T>) -> Option<T> {
        *self.lock() = if is_syncing { Sleep::Syncing } else { Sleep::Idle };
        let found = look();
        let mut sleep = self.lock();
        while found.is_none() && *sleep != Sleep::Awake {
            sleep = self.rung.wait(sleep).unwrap_or_else(PoisonError::into_inner);
        }
        *sleep = Sleep::Awake;
        found
    }

    fn lock(&self) -> MutexGuard<'_, Sleep> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// One thread sleeps for items that another sends; none is slept over.
    #[test]
    fn whatever_is_sent_is_found_or_wakes() {
        let (sender, receiver) = mpsc::channel();
        let bell = Doorbell::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                for item in 0..100_000 {
                    sender.send(item).unwrap();
                    bell.ring_for(1);
                }
            });
            let mut expected = 0;
            while expected < 100_000 {
                let look = || receiver.try_recv().ok();
                if let Some(item) = look().or_else(|| bell.sleep(false, look)) {
                    assert_eq!(item, expected);
                    expected += 1;
                }
            }
        });
    }

    #[test]
    fn during_a_sync_only_its_end_and_many_commands_wake() {
        let bell = Doorbell::default();
        let armed = || {
            *bell.lock() = Sleep::Syncing;
        };
        let is_awake = || *bell.lock() == Sleep::Awake;
        armed();
        bell.ring_for(1);
        assert!(!is_awake());
        bell.ring_for(MANY_COMMANDS);
        assert!(is_awake());
        armed();
        bell.ring();
        assert!(is_awake());
    }
}
