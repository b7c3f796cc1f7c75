//! The rot: what is at rest is damaged, and reads give what they should not.

use super::{
    disk::{Image, ReadFault, Rng, SECTOR, SimDisk},
    node::Node,
    readers::told_by_log,
    world::World,
};

/// How many reads a start makes at most before one of them fails; more than most make.
pub(super) const READS_OF_A_START: usize = 60;
/// And a reader of the whole log.
const READS_OF_A_READER: usize = 4;

impl World {
    /// Damages what is at rest once, in one way, and then in another; and then a read is
    /// misdirected while everything at rest is as it should be.
    pub(super) fn rot(&mut self) {
        let image = self.disk.image();
        for _ in 0..3 {
            let (mut damaged, mut rng) = (image.clone(), Rng(self.rng.next()));
            let Some(what) = damage(&mut damaged, &mut rng) else { return };
            self.disk = SimDisk::of(&damaged, rng.next());
            self.start_rotten(&what);
        }
        self.disk = SimDisk::of(&image, self.mishaps.next());
        self.fail_a_read(READS_OF_A_START, &[ReadFault::Misdirected]);
        self.start_rotten("a read of another place");
    }

    /// Fails one of the next reads of the disk, in one of these ways.
    pub(super) fn fail_a_read(&mut self, reads: usize, faults: &[ReadFault]) {
        let fault = faults[self.mishaps.below(faults.len())];
        self.disk.set_read_fault(Some((self.mishaps.below(reads), fault)));
    }

    /// No read fails any more. One that was to fail is counted if it has.
    pub(super) fn end_read_fault(&mut self, was_set: bool) {
        self.tally.read_failures += u64::from(was_set && self.disk.has_failed_a_read());
        self.disk.set_read_fault(None);
    }

    /// The log is read while one read of the disk fails, in whatever way: that is told, or it makes
    /// no difference, also to whoever reads next.
    pub(super) fn read_badly(&mut self, node: &Node) {
        let faults = [ReadFault::Error, ReadFault::End, ReadFault::Misdirected];
        self.fail_a_read(READS_OF_A_READER, &faults);
        let told = told_by_log(node, self.model.head);
        self.end_read_fault(true);
        if let Ok(told) = told {
            assert_eq!(told, self.told(), "a wrong answer");
        } else {
            self.tally.reads_refused += 1;
            self.check_log(node);
        }
    }

    /// Something is damaged. It is told, or it makes no difference: a start never shows
    /// other events than those that were recorded, and silently less only where nothing could tell
    /// the damage from a torn write.
    fn start_rotten(&mut self, what: &str) {
        self.tell(|| format!("damaged: {what}"));
        self.tally.damages += 1;
        let started = self.start();
        self.disk.set_read_fault(None);
        let node = match started {
            Ok(node) => node,
            Err(_reported) => {
                self.tally.damages_told += 1;
                return;
            }
        };
        let head = node.books().position();
        if node.damage.is_some() {
            self.tally.damages_told += 1;
        } else {
            let may_be_torn = !self.is_witnessed && head >= self.durable_before;
            assert!(head == self.model.head || may_be_torn, "{what}: lost without a word");
        }
        assert!(head <= self.model.head, "{what}");
        let Ok(found) = told_by_log(&node, head) else {
            self.tally.damages_told += 1;
            return;
        };
        assert_eq!(found.head(), head, "{what}");
        assert_eq!(found.principals, self.model.principals[..head as usize], "{what}");
        for (id, account) in &self.model.accounts {
            let count = account.at(head).0 as usize;
            let expected = account.events.get(..count).filter(|events| !events.is_empty());
            assert_eq!(
                found.accounts.get(id).map(|events| &events[..]),
                expected,
                "{what}: a wrong answer"
            );
        }
    }
}

/// Damages what is at rest: some bits, some bytes, or a sector that another one is written over.
/// Gives what it did; `None` when there is nothing to damage.
fn damage(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let used = |bytes: &Vec<u8>| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let files: Vec<(String, usize)> = image
        .iter()
        .map(|(name, bytes)| (name.clone(), used(bytes)))
        .filter(|(_, used)| *used > 0)
        .collect();
    let (name, used) = files.get(rng.below(files.len()))?;
    let at = rng.below(*used);
    let start = at / SECTOR * SECTOR;
    let way = rng.below(4);
    let other = (way == 3).then(|| {
        let (other, used) = &files[rng.below(files.len())];
        let from = rng.below(*used) / SECTOR * SECTOR;
        image[other][from..].iter().copied().take(SECTOR).collect::<Vec<u8>>()
    });
    let bytes = image.get_mut(name)?;
    let what = match (way, other) {
        (0, _) => {
            bytes[at] ^= 1 << rng.below(8);
            "a bit"
        }
        (1, _) => {
            let end = (at + 1 + rng.below(64)).min(bytes.len());
            bytes[at..end].fill_with(|| rng.next().to_le_bytes()[0]);
            "some bytes"
        }
        (_, Some(sector)) => {
            for (byte, other) in bytes[start..].iter_mut().zip(sector) {
                *byte = other;
            }
            "a sector of another place"
        }
        (_, None) => {
            let end = (start + SECTOR).min(bytes.len());
            bytes[start..end].fill(0);
            "a sector of zeros"
        }
    };
    Some(format!("{what} in {name} at {at}"))
}
