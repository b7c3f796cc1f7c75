//! Checkpoints on the medium, and what is verified when a log was gone on from one.

use std::sync::Arc;

use super::{Fault, Model, Node, join, model, start};
use crate::log::{
    CheckpointFault, Checkpoints as _, Draft, Head, PIECE_BYTES_MAX, Pieces as _, Scrubbed,
    Scrubber as _,
    conformance::{LOG_ID, group},
    shared::{Checkpoint, Checkpoints, Lease, Scrub, Standby},
};

/// So many pieces are more than one part.
const PIECES: u8 = 40;

fn pieces() -> Vec<Vec<u8>> {
    (0..PIECES).map(|number| vec![number; PIECE_BYTES_MAX - usize::from(number)]).collect()
}

/// An owner, its checkpoints, and the clock that nobody else has.
fn owner(model: &Model) -> (Node, Checkpoints, Arc<Lease>) {
    let node = start(model).unwrap();
    let lease = Arc::clone(&node.lease);
    // As the server has it: of the log as its owner shows it.
    let standby = caught_up(model, Arc::clone(&lease));
    (node, standby.checkpoints(Arc::new(model.clone())), lease)
}

/// Who has read and shown all of the log.
fn caught_up(model: &Model, lease: Arc<Lease>) -> Standby {
    let mut standby = Standby::new(Arc::new(model.clone()), lease);
    let blocks = standby.follow().unwrap();
    standby.confirm(&mut model.clone(), &blocks).unwrap();
    standby
}

fn fill(draft: &mut dyn Draft) -> std::io::Result<()> {
    pieces().iter().try_for_each(|piece| draft.push(piece))
}

/// A log of so many blocks, and a checkpoint at its end.
fn saved(blocks: usize) -> (Model, Node, Head) {
    let model = model();
    let mut node = start(&model).unwrap();
    for _ in 0..blocks {
        node.append().unwrap();
    }
    save(&model, &node).unwrap();
    let head = node.reader.head();
    (model, node, head)
}

fn save(model: &Model, node: &Node) -> std::io::Result<()> {
    let standby = caught_up(model, Arc::clone(&node.lease));
    let checkpoints = standby.checkpoints(Arc::new(model.clone()));
    let mut draft = checkpoints.begin().unwrap();
    assert_eq!(draft.position(), node.reader.head().position);
    match fill(&mut *draft) {
        Ok(()) => draft.finish(),
        Err(error) => {
            draft.discard()?;
            Err(error)
        }
    }
}

type Found = Option<(Head, Vec<Vec<u8>>)>;

/// The newest checkpoint: how far the log had come, and its pieces.
fn find(model: &Model) -> Result<Found, CheckpointFault> {
    let Some(mut checkpoint) = Checkpoint::find(Arc::new(model.clone()), &LOG_ID)? else {
        return Ok(None);
    };
    let mut pieces = Vec::new();
    while let Some(piece) = checkpoint.next_piece()? {
        pieces.push(piece.to_vec());
    }
    assert_eq!(checkpoint.position(), checkpoint.head().position);
    Ok(Some((checkpoint.head(), pieces)))
}

#[test]
fn what_was_put_is_found() {
    let (model, node, head) = saved(3);
    assert_eq!(find(&model).unwrap(), Some((head, pieces())));
    drop(node);
}

#[test]
fn an_empty_log_has_no_checkpoint() {
    let model = model();
    let (_node, checkpoints, _lease) = owner(&model);
    assert!(checkpoints.begin().is_none());
    assert!(find(&model).unwrap().is_none());
}

/// Somebody may be reading the one before; those that are older, and what was never finished, go.
#[test]
fn the_newest_two_stay() {
    let (model, mut node, first) = saved(1);
    let abandoned = caught_up(&model, Arc::clone(&node.lease));
    let abandoned = abandoned.checkpoints(Arc::new(model.clone()));
    fill(&mut *abandoned.begin().unwrap()).unwrap();
    assert_eq!(model.checkpoint_count(), 2);
    assert_eq!(find(&model).unwrap().unwrap().0, first, "what is not finished does not count");
    for _ in 0..3 {
        node.append().unwrap();
        save(&model, &node).unwrap();
        assert_eq!(model.checkpoint_count(), 2);
        assert_eq!(find(&model).unwrap().unwrap().0, node.reader.head());
    }
}

/// After a loss the log is shorter than what a checkpoint was made of, and then goes its own way.
#[test]
fn one_of_a_place_that_is_lost_is_not_the_newest() {
    let (model, mut node, first) = saved(2);
    node.append().unwrap();
    save(&model, &node).unwrap();
    assert_eq!(find(&model).unwrap().unwrap().0, node.reader.head());
    model.fail_over();
    assert_eq!(find(&model).unwrap().unwrap().0, first);
    let mut node = start_again_elsewhere(&model);
    node.writer.append(&group(5, &[(2, 77)])).unwrap();
    assert_eq!(find(&model).unwrap().unwrap().0, first, "its place is another one now");
    save(&model, &node).unwrap();
    assert_eq!(find(&model).unwrap().unwrap().0.hash, node.reader.head().hash);
    assert_eq!(model.checkpoint_count(), 2, "that one is gone");
}

/// Who owns the log after the one before.
fn start_again_elsewhere(model: &Model) -> Node {
    model.pass(super::TIME);
    start(model).unwrap()
}

/// Each call fails once, carried out or not: the one before counts, or the new one does.
#[test]
fn one_that_cannot_be_put_leaves_the_one_before() {
    for fault in [Fault::Lost, Fault::Unanswered, Fault::NoRoom] {
        for before in 0.. {
            let (model, mut node, first) = saved(1);
            node.append().unwrap();
            let newer = node.reader.head();
            let standby = caught_up(&model, Arc::clone(&node.lease));
            let checkpoints = standby.checkpoints(Arc::new(model.clone()));
            model.fail_after(before, fault);
            let mut draft = checkpoints.begin().unwrap();
            let put = match fill(&mut *draft) {
                Ok(()) => draft.finish(),
                Err(error) => draft.discard().and(Err(error)),
            };
            let is_over = model.forget_faults();
            let (found, pieces_found) = find(&model).unwrap().unwrap();
            assert_eq!(pieces_found, pieces());
            let expected = if put.is_ok() { vec![newer] } else { vec![first, newer] };
            assert!(expected.contains(&found), "{fault:?} after {before} calls: {put:?}");
            if is_over {
                assert!(put.is_ok() && before > 5, "{fault:?}: {before} calls");
                break;
            }
            // Once it counts, what others leave behind is no failure of it.
            let counts = before > 4 || before == 4 && fault == Fault::Unanswered;
            assert_eq!(found == newer, counts, "{fault:?} after {before}: {put:?}");
        }
    }
}

#[test]
fn one_that_is_not_what_was_put_is_damaged() {
    let damaged = |change: &dyn Fn(&Model), what: &str| {
        let (model, _node, _head) = saved(1);
        change(&model);
        let found = find(&model);
        assert!(matches!(found, Err(CheckpointFault::Damaged)), "{what}: {found:?}");
    };
    for number in 0..3 {
        damaged(&|model| model.change_parts(|parts| drop(parts.remove(&number))), "a part is gone");
        for bit in [0, 37, 70, 8 * 1_000, 8 * 400_000] {
            let flip = |model: &Model| {
                model.change_parts(|parts| {
                    let part = parts.get_mut(&number).unwrap();
                    let bit = bit % (8 * part.len());
                    part[bit / 8] ^= 1 << (bit % 8);
                });
            };
            damaged(&flip, "a bit is another");
        }
        let cut = |model: &Model| {
            model.change_parts(|parts| {
                let _last = parts.get_mut(&number).unwrap().pop();
            });
        };
        damaged(&cut, "a part is cut");
    }
    let swap = |model: &Model| {
        model.change_parts(|parts| {
            let [first, second] = [0, 1].map(|number| parts[&number].clone());
            parts.extend([(0, second), (1, first)]);
        });
    };
    damaged(&swap, "two parts are swapped");
}

/// Nothing of one is taken for another place, or another log.
#[test]
fn one_of_another_place_is_damaged() {
    let (model, mut node, _head) = saved(1);
    node.append().unwrap();
    let parts = model.parts();
    save(&model, &node).unwrap();
    model.change_parts(|newer| *newer = parts);
    assert!(matches!(find(&model), Err(CheckpointFault::Damaged)));
    let of_another = Checkpoint::find(Arc::new(model.clone()), &[9; 16]).unwrap();
    let piece = of_another.unwrap().next_piece().map(|piece| piece.map(<[u8]>::to_vec));
    assert!(matches!(piece, Err(CheckpointFault::Damaged)), "{piece:?}");
}

/// Goes on from a place in the log.
fn resume(model: &Model, head: Head) -> Option<Standby> {
    let (lease, _keeper) = join(model);
    Standby::resume(Arc::new(model.clone()), lease, head).unwrap()
}

#[test]
fn the_log_has_to_have_the_place() {
    let (model, mut node, head) = saved(3);
    node.append().unwrap();
    for wrong in [
        Head { position: head.position - 1, ..head },
        Head { position: head.position + 1, ..head },
        Head { position: 1_000, ..head },
        Head { hash: [1; 32], ..head },
    ] {
        assert!(resume(&model, wrong).is_none(), "{wrong:?}");
    }
    let mut standby = resume(&model, head).unwrap();
    let blocks = standby.follow().unwrap();
    assert_eq!((blocks.len(), standby.position()), (1, head.position + 2));
    assert_eq!(standby.reader().head().position, 0, "nothing is shown yet");
    assert_eq!(standby.reader_of_read().head().position, head.position + 2);
}

/// Who has gone on from a checkpoint shows the log, and what was verified of it; and the scrub.
fn resumed(model: &Model, head: Head) -> (Standby, Scrub) {
    let mut standby = resume(model, head).unwrap();
    let blocks = standby.follow().unwrap();
    standby.confirm(&mut model.clone(), &blocks).unwrap();
    let scrub = standby.scrub();
    (standby, scrub)
}

#[test]
fn what_was_left_out_is_verified_later() {
    let (model, mut node, head) = saved(100);
    node.append().unwrap();
    let end = node.reader.head().position;
    let (standby, mut scrub) = resumed(&model, head);
    let verified = || standby.reader().scrubbed();
    assert_eq!(verified(), Scrubbed::default());
    let mut paces = Vec::new();
    assert!(scrub.step(&mut |bytes| paces.push(bytes)).unwrap());
    assert!(paces.len() > 1 && paces.is_sorted(), "{paces:?}");
    assert_eq!(verified(), Scrubbed { position: end, damage: None });
    assert!(!scrub.step(&mut |_| ()).unwrap(), "once");
    scrub.restart();
    assert!(scrub.step(&mut |_| ()).unwrap());
    assert!(!scrub.step(&mut |_| ()).unwrap());
    assert_eq!(verified(), Scrubbed { position: end, damage: None });
}

#[test]
fn a_scrub_finds_what_nobody_reads() {
    for index in [0, 50, 99] {
        let (model, _node, head) = saved(100);
        let (standby, mut scrub) = resumed(&model, head);
        model.damage(index);
        assert!(scrub.step(&mut |_| ()).unwrap());
        let Scrubbed { position, damage } = standby.reader().scrubbed();
        let damage = damage.expect("damage");
        let first = 1 + 2 * u64::try_from(index).unwrap();
        assert!(position < first && damage.position == first, "{position} {damage}");
        assert!(!scrub.step(&mut |_| ()).unwrap(), "it is told once");
    }
}

#[test]
fn a_server_that_was_left_behind_is_no_damage() {
    for there in [0, 40, 99] {
        let (model, _node, head) = saved(100);
        let (standby, mut scrub) = resumed(&model, head);
        model.leave_behind(there);
        while scrub.step(&mut |_| ()).unwrap() {}
        let verified = Scrubbed { position: head.position, damage: None };
        assert_eq!(standby.reader().scrubbed(), verified, "{there}");
    }
}

#[test]
fn a_scrub_that_cannot_read_goes_on_later() {
    let (model, _node, head) = saved(100);
    let (standby, mut scrub) = resumed(&model, head);
    model.fail_reads(1);
    scrub.step(&mut |_| ()).unwrap_err();
    assert_eq!(standby.reader().scrubbed(), Scrubbed::default());
    assert!(scrub.step(&mut |_| ()).unwrap());
    assert_eq!(standby.reader().scrubbed().position, head.position);
}
