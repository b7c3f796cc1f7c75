//! Many small worlds, each driven by one number: processes that stall, lose answers, come late and
//! take over from each other. Whatever happens, what was acknowledged is in the log once, in order.

use super::{Fault, Model, Node, TIME, model, start};
use crate::log::{AppendError, Group};

const WORLDS: u64 = 2_000;
const STEPS: u32 = 300;
const NODES_MAX: usize = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % count
    }
}

struct World {
    random: Random,
    model: Model,
    nodes: Vec<Process>,
    /// The marks of the records that were acknowledged, in order.
    acknowledged: Vec<u64>,
    next_mark: u64,
    fenced: u64,
    regained: u64,
}

struct Process {
    node: Node,
    /// The group that is not acknowledged yet, and its mark: nothing follows before it is.
    pending: Option<(Group, u64)>,
}

impl World {
    fn step(&mut self) {
        match self.random.below(100) {
            0..55 => self.append(),
            55..70 => self.renew(),
            70..80 => self.model.pass(TIME / 8),
            80..82 => self.model.pass(TIME),
            82..90 => {
                let faults = [Fault::Lost, Fault::Unanswered, Fault::Late, Fault::NoRoom];
                let fault = faults[usize::try_from(self.random.below(4)).unwrap()];
                self.model.fail([fault]);
            }
            90..93 => self.model.deliver(),
            93..98 if self.nodes.len() < NODES_MAX => {
                self.model.forget_faults();
                let node = start(&self.model);
                self.nodes.extend(node.map(|node| Process { node, pending: None }));
            }
            98 => {
                if let Some(mut process) = self.any().map(|index| self.nodes.remove(index)) {
                    let _the_answer_may_be_lost = process.node.writer.close();
                }
            }
            _ => drop(self.any().map(|index| self.nodes.remove(index))),
        }
    }

    fn any(&mut self) -> Option<usize> {
        let count = u64::try_from(self.nodes.len()).unwrap();
        (count > 0).then(|| usize::try_from(self.random.below(count)).unwrap())
    }

    fn renew(&mut self) {
        let Some(index) = self.any() else { return };
        let (node, epoch) = (&mut self.nodes[index].node, self.model.tip().epoch);
        node.keeper.step().unwrap();
        let owns = node.writer.owns();
        self.regained += u64::from(matches!(owns, Ok(true)) && self.model.tip().epoch > epoch);
    }

    fn append(&mut self) {
        let Some(index) = self.any() else { return };
        let process = &mut self.nodes[index];
        if process.node.reader.is_current() {
            // What is shown as the newest holds all that anybody was told.
            let known = u64::try_from(self.acknowledged.len()).unwrap();
            let shown = process.node.reader.head().position;
            assert!(shown >= known, "{shown} shown of {known}");
        }
        let (group, mark) = process.pending.take().unwrap_or_else(|| {
            let (mark, mut group) =
                (self.next_mark, Group::new(process.node.reader.head().position + 1));
            self.next_mark += 1;
            group.push(1, |bytes| bytes.extend_from_slice(&mark.to_le_bytes()));
            (group, mark)
        });
        match process.node.writer.append(&group) {
            Ok(head) => {
                let before = usize::try_from(head.position - 1).unwrap();
                // Others, whose answers were lost, may lie between.
                assert!(before >= self.acknowledged.len());
                self.acknowledged.resize(before, u64::MAX);
                self.acknowledged.push(mark);
            }
            Err(AppendError::Full | AppendError::Unreachable(_)) => {
                process.pending = Some((group, mark));
            }
            Err(AppendError::Fenced(_) | AppendError::Latched) => {
                self.fenced += 1;
                self.nodes.remove(index);
            }
            Err(failure @ AppendError::Failed(_)) => panic!("{failure}"),
        }
    }

    /// Whoever comes last finds everything.
    fn check(mut self) -> (usize, u64, u64) {
        self.model.forget_faults();
        self.model.deliver();
        self.model.pass(TIME * 2);
        let last = start(&self.model).unwrap();
        let mut marks = Vec::new();
        for position in 1..=last.reader.head().position {
            let block = last.reader.block(position).unwrap();
            let record = block.record_at(position).unwrap();
            marks.push(u64::from_le_bytes(record.bytes.try_into().unwrap()));
        }
        for (found, told) in marks.iter().zip(&self.acknowledged) {
            assert!(*told == u64::MAX || found == told, "{found} where {told} was told");
        }
        assert!(marks.len() >= self.acknowledged.len(), "an acknowledged record is lost");
        let count = marks.len();
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), count, "a record is there twice");
        self.nodes.clear();
        (self.acknowledged.len(), self.fenced, self.regained)
    }
}

#[test]
fn what_was_acknowledged_is_there_once() {
    let (mut acknowledged, mut fenced, mut regained) = (0, 0, 0);
    for seed in 1..=WORLDS {
        let mut world = World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            model: model(),
            nodes: Vec::new(),
            acknowledged: Vec::new(),
            next_mark: 0,
            fenced: 0,
            regained: 0,
        };
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            for _ in 0..STEPS {
                world.step();
            }
            world.check()
        }));
        let Ok(seen) = seen else { panic!("the world of seed {seed}") };
        acknowledged += seen.0;
        fenced += seen.1;
        regained += seen.2;
    }
    // They are worth nothing if nothing happens in them.
    assert!(acknowledged > 50_000, "{acknowledged} acknowledged");
    assert!(fenced > 500, "{fenced} fenced");
    assert!(regained > 500, "{regained} regained");
}
