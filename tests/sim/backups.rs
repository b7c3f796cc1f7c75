//! Backups: made while the log is written, on a disk of their own that fails as well.

use std::io::ErrorKind;

use super::{
    disk::{Faults, SimDisk},
    node::Node,
    world::World,
};
use crate::{
    event_store::StoreStatus,
    log::file::{self, CopyError, OpenError},
};

impl World {
    /// A backup on top of those before, while the ledger goes on. What was acknowledged before it
    /// was begun is in it, and it stays a beginning of the log whatever becomes of the process and
    /// the power: so no later backup finds it to be something else.
    pub(super) fn back_up(&mut self, node: &mut Node) {
        let (acknowledged, was_serving) = (self.model.head, node.status() == StoreStatus::Serving);
        let fail_after = self.rng.one_in(3).then(|| (self.rng.below(40), ErrorKind::Other));
        self.backup.set_faults(Faults { fail_after, short: self.knobs.short, ..Faults::default() });
        let copied = file::back_up(&self.disk, &self.backup, &mut |_, _| (), &mut || node.sync());
        self.tell(|| format!("a backup: {copied:?}"));
        match copied {
            Ok(copied) => {
                let is_serving = was_serving && node.status() == StoreStatus::Serving;
                let position = copied.position;
                assert!(position >= acknowledged || !is_serving, "the backup is too old");
                self.tally.backups += 1;
            }
            Err(CopyError::Open(OpenError::Io { .. })) => {}
            // Nobody is going to say whether the newest group is durable.
            Err(CopyError::Uncertain(_)) => {
                assert_ne!(node.status(), StoreStatus::Serving, "it would have been told");
            }
            Err(other) => panic!("no backup: {other}"),
        }
        if self.rng.one_in(4) {
            self.backup.crash();
        }
        self.backup.set_faults(Faults::default());
        // The newest group may have been appended meanwhile.
        self.note_unwitnessed();
    }

    /// At the end, of a log that nobody uses: everything is in the backup, and what is restored
    /// from it is the ledger.
    pub(super) fn restore(&mut self) {
        let copied = file::back_up(&self.disk, &self.backup, &mut |_, _| (), &mut || ());
        let copied = copied.expect("nothing is wrong with the disks any more");
        assert_eq!(copied.position, self.model.head);
        let restored = SimDisk::new(self.rng.next());
        let (backup, told) = (&self.backup, &mut |_, _| ());
        let again = file::restore(backup, &restored, None, told, &mut |_, _| Ok(()));
        assert_eq!(again.expect("the backup is whole").hash, copied.hash);
        let node = self.start_on(&restored).expect("a restored log can be opened");
        assert_eq!(node.damage, None);
        self.check_log(&node);
        assert_eq!(node.books().position(), self.model.head);
    }
}
