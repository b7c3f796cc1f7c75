//! What must hold of a log whose medium several processes share, whatever gets lost, stalls or
//! comes late.

use std::{sync::Arc, time::Duration};

use super::{Confirmed, Keeper, Lease, Standby, standby::READ_BLOCKS};
use crate::log::{
    AppendError, Head, LogReader, LogWriter, ReadError,
    conformance::{LOG_ID, check_block, group, read_all},
};

mod checkpoint;
mod import;
mod model;
mod worlds;

pub(crate) use model::Model;
use model::{Fault, TIME};

/// A process that owns the log.
pub(crate) struct Node {
    pub(crate) writer: Box<dyn LogWriter>,
    pub(crate) reader: Arc<dyn LogReader>,
    keeper: Keeper,
    lease: Arc<Lease>,
}

/// A process that has joined, reads the whole log, and takes it over if that is allowed.
pub(crate) fn start(model: &Model) -> Option<Node> {
    start_as(model, model.member())
}

fn start_as(model: &Model, (lease, mut keeper): (Arc<Lease>, Keeper)) -> Option<Node> {
    keeper.step().unwrap();
    let mut standby = Standby::new(Arc::new(model.clone()), Arc::clone(&lease));
    let owner = standby.claim(&mut model.clone()).unwrap()?;
    while standby.position() < owner.position() {
        assert!(!standby.follow().unwrap().is_empty());
    }
    let (writer, reader) = standby.take(Box::new(model.clone()), owner).unwrap();
    Some(Node { writer, reader, keeper, lease })
}

/// A process that has joined.
fn join(model: &Model) -> (Arc<Lease>, Keeper) {
    let (lease, mut keeper) = model.member();
    keeper.step().unwrap();
    (lease, keeper)
}

/// A process that has joined, and has read nothing of the log yet.
pub(crate) fn stand_by(model: &Model) -> (Standby, Keeper) {
    let (lease, keeper) = join(model);
    (Standby::new(Arc::new(model.clone()), lease), keeper)
}

impl Node {
    /// Appends one record of two events.
    pub(crate) fn append(&mut self) -> Result<Head, AppendError> {
        let next_position = self.reader.head().position + 1;
        self.writer.append(&group(next_position, &[(2, 100)]))
    }
}

pub(crate) fn model() -> Model {
    Model::new(LOG_ID)
}

#[test]
fn an_append_without_an_answer_happens_once() {
    for fault in [Fault::Lost, Fault::Unanswered, Fault::Late] {
        let model = model();
        let mut node = start(&model).unwrap();
        node.append().unwrap();
        model.fail([fault]);
        assert_eq!(node.append().unwrap().position, 4, "{fault:?}");
        model.deliver();
        assert_eq!(node.append().unwrap().position, 6);
        assert_eq!(read_all(&*node.reader), [(2, 100); 3]);
        assert_eq!(read_all(&*start_again(&model, node).reader), [(2, 100); 3]);
    }
}

/// Ends one process in good order, and starts another.
fn start_again(model: &Model, mut node: Node) -> Node {
    node.writer.close().unwrap();
    start(model).unwrap()
}

#[test]
fn what_cannot_be_reached_is_tried_again() {
    for first in [Fault::Lost, Fault::Unanswered, Fault::Late] {
        let model = model();
        let mut node = start(&model).unwrap();
        let next = group(1, &[(1, 10), (1, 20)]);
        // The append, and then every question what has become of it.
        model.fail([first].into_iter().chain([Fault::Lost; 20]));
        for _ in 0..4 {
            let failure = node.writer.append(&next).unwrap_err();
            assert!(matches!(failure, AppendError::Unreachable(_)), "{failure}");
            assert_eq!(node.reader.head().position, 0, "nothing is shown before it is certain");
        }
        model.forget_faults();
        assert!(node.writer.owns().unwrap());
        assert_eq!(node.writer.append(&next).unwrap().position, 2);
        model.deliver();
        assert_eq!(read_all(&*node.reader), [(1, 10), (1, 20)]);
    }
}

#[test]
fn without_room_nothing_happens() {
    let model = model();
    let mut node = start(&model).unwrap();
    model.fail([Fault::NoRoom]);
    assert!(matches!(node.append(), Err(AppendError::Full)));
    assert!(!node.writer.has_room());
    assert_eq!(node.append().unwrap().position, 2);
    assert!(node.writer.has_room());
}

#[test]
fn there_is_one_owner_at_a_time() {
    let model = model();
    let mut node = start(&model).unwrap();
    for _ in 0..10 {
        model.pass(TIME / 3);
        node.keeper.step().unwrap();
        assert!(start(&model).is_none());
        node.append().unwrap();
    }
    let mut next = start_again(&model, node);
    assert_eq!(next.append().unwrap().position, 22);
}

#[test]
fn a_stalled_owner_shows_and_appends_nothing() {
    let model = model();
    let mut node = start(&model).unwrap();
    node.append().unwrap();
    assert!(node.reader.is_current());
    model.pass(TIME * 3 / 4);
    assert!(!node.reader.is_current(), "a quarter before others may own the log");
    assert!(!node.writer.owns().unwrap());
    assert!(matches!(node.append(), Err(AppendError::Unreachable(_))));
    assert!(start(&model).is_none(), "its time is not over elsewhere");
    model.pass(TIME / 4);
    let mut next = start(&model).unwrap();
    next.append().unwrap();

    // It wakes up, and takes part again.
    node.keeper.step().unwrap();
    assert!(node.lease.node().is_some());
    assert!(!node.reader.is_current(), "it is a member, and no owner");
    assert!(matches!(node.append(), Err(AppendError::Fenced(_))));
    assert!(matches!(node.append(), Err(AppendError::Latched)));
    assert!(!node.writer.has_room());
    assert_eq!(next.append().unwrap().position, 6);
    assert_eq!(read_all(&*next.reader), [(2, 100); 3]);
}

#[test]
fn a_clock_that_stands_still_is_no_licence_to_append() {
    let model = model();
    let mut node = start_as(&model, model.member_by(Arc::new(|| Duration::ZERO))).unwrap();
    node.append().unwrap();
    model.pass(TIME);
    let mut next = start(&model).unwrap();
    next.append().unwrap();
    // By its own clock no time has passed since.
    assert!(node.lease.node().is_some());
    assert!(matches!(node.append(), Err(AppendError::Fenced(_))));
    assert_eq!(node.reader.head().position, 2);
    assert_eq!(next.append().unwrap().position, 6);
    assert_eq!(read_all(&*next.reader), [(2, 100); 3]);
}

#[test]
fn an_append_that_comes_after_the_seal_does_nothing() {
    let model = model();
    let mut node = start(&model).unwrap();
    model.fail([Fault::Late].into_iter().chain([Fault::Lost; 3]));
    assert!(matches!(node.append(), Err(AppendError::Unreachable(_))));
    model.forget_faults();
    model.pass(TIME);
    let mut next = start(&model).unwrap();
    model.deliver();
    assert_eq!(next.append().unwrap().position, 2);
    node.keeper.step().unwrap();
    assert!(matches!(node.writer.owns(), Err(AppendError::Fenced(_))));
    assert_eq!(read_all(&*next.reader), [(2, 100)]);
}

#[test]
fn an_owner_whose_lease_has_ended_goes_on_if_nobody_else_has() {
    let model = model();
    let mut node = start(&model).unwrap();
    node.append().unwrap();
    let epoch = model.tip().epoch;
    assert_eq!((node.lease.epoch(), node.lease.remaining()), (Some(epoch), TIME * 3 / 4));
    model.pass(TIME * 10);
    assert!(!node.writer.owns().unwrap());
    assert_eq!((node.lease.epoch(), node.lease.remaining()), (None, Duration::ZERO));
    node.keeper.step().unwrap();
    assert_eq!((node.lease.epoch(), node.lease.remaining()), (None, TIME * 3 / 4));
    assert!(!node.reader.is_current(), "others may have appended");
    assert!(node.writer.owns().unwrap());
    assert!(node.reader.is_current());
    assert!(model.tip().epoch > epoch, "who has claimed it meanwhile is fenced");
    assert_eq!(node.lease.epoch(), Some(model.tip().epoch));
    assert_eq!(node.append().unwrap().position, 4);
}

#[test]
fn an_owner_whose_lease_has_ended_learns_what_became_of_its_append() {
    for fault in [Fault::Unanswered, Fault::Lost] {
        let model = model();
        let mut node = start(&model).unwrap();
        model.fail([fault].into_iter().chain([Fault::Lost; 3]));
        assert!(node.append().is_err());
        model.forget_faults();
        model.pass(TIME * 10);
        node.keeper.step().unwrap();
        assert!(node.writer.owns().unwrap());
        assert_eq!(node.append().unwrap().position, 2);
        assert_eq!(read_all(&*node.reader), [(2, 100)]);
    }
}

#[test]
fn another_owner_between_is_noticed() {
    let model = model();
    let mut node = start(&model).unwrap();
    node.append().unwrap();
    model.pass(TIME * 2);
    let mut next = start(&model).unwrap();
    next.append().unwrap();
    next.writer.close().unwrap();
    node.keeper.step().unwrap();
    let failure = node.writer.owns().unwrap_err();
    assert!(matches!(failure, AppendError::Fenced("another owner has appended to the log")));
}

#[test]
fn what_was_not_written_so_is_never_read() {
    let model = model();
    let mut node = start(&model).unwrap();
    for _ in 0..3 {
        node.append().unwrap();
    }
    node.writer.close().unwrap();
    model.damage(1);
    let (mut standby, _keeper) = stand_by(&model);
    match standby.follow() {
        Err(ReadError::Damaged(damage)) => assert_eq!(damage.position, 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_standby_knows_whether_it_has_read_everything() {
    let model = model();
    let mut node = start(&model).unwrap();
    let mut standby = Standby::new(Arc::new(model.clone()), Arc::clone(&node.lease));
    assert!(!standby.is_at_end());
    for _ in 0..=READ_BLOCKS {
        node.append().unwrap();
    }
    for (count, is_at_end) in [(READ_BLOCKS, false), (1, true), (0, true)] {
        assert_eq!(standby.follow().unwrap().len(), usize::try_from(count).unwrap());
        assert_eq!(standby.is_at_end(), is_at_end);
    }
}

#[test]
fn a_standby_shows_what_is_certain() {
    let model = model();
    let mut node = start(&model).unwrap();
    let (lease, mut keeper) = model.member();
    let mut standby = Standby::new(Arc::new(model.clone()), lease);
    let reader = standby.reader();
    let mut store = model.clone();
    node.append().unwrap();
    assert_eq!(standby.follow().unwrap().len(), 1);
    let mut confirm = |standby: &mut Standby| standby.confirm(&mut store, &[]);
    assert_eq!(confirm(&mut standby), Ok(Confirmed::NoMember));
    keeper.step().unwrap();
    model.fail([Fault::Lost, Fault::Unanswered]);
    for _ in 0..2 {
        assert!(confirm(&mut standby).is_err());
        assert_eq!(reader.head().position, 0, "that is not certain");
    }
    assert_eq!(confirm(&mut standby), Ok(Confirmed::Shown));
    assert_eq!(reader.head(), node.reader.head());
    assert_eq!(read_all(&*reader), [(2, 100)]);
    assert_eq!(reader.scrubbed().position, 2);
    assert!(!reader.is_current(), "another one owns the log");
    model.pass(TIME);
    assert_eq!(confirm(&mut standby), Ok(Confirmed::NoMember), "its time is over");
}

#[test]
fn a_standby_forgets_what_the_medium_has_lost() {
    // The next owner appends as much in its place, or more.
    for sizes in [&[(2, 50)][..], &[(3, 50)], &[(1, 50), (4, 50)]] {
        let model = model();
        let mut node = start(&model).unwrap();
        let (mut standby, mut keeper) = stand_by(&model);
        let (reader, mut store) = (standby.reader(), model.clone());
        node.append().unwrap();
        standby.follow().unwrap();
        assert_eq!(standby.confirm(&mut store, &[]), Ok(Confirmed::Shown));
        node.append().unwrap();
        assert_eq!(standby.follow().unwrap().len(), 1);
        model.fail_over();
        model.pass(TIME);
        keeper.step().unwrap();
        let mut node = start(&model).unwrap();
        for size in sizes {
            let next_position = node.reader.head().position + 1;
            node.writer.append(&group(next_position, &[*size])).unwrap();
        }
        assert_eq!(standby.confirm(&mut store, &[]), Ok(Confirmed::Lost));
        assert_eq!((reader.head().position, standby.is_at_end()), (2, false));
        assert_eq!(standby.follow().unwrap().len(), sizes.len());
        assert_eq!(standby.confirm(&mut store, &[]), Ok(Confirmed::Shown));
        assert_eq!(reader.head().hash, node.reader.head().hash);
        assert_eq!(read_all(&*reader), [&[(2, 100)], sizes].concat());
    }
}

/// What was shown was durable. A medium without it is another one than before.
#[test]
fn a_standby_finds_out_that_the_medium_has_lost_what_it_has_shown() {
    for goes_on in [false, true] {
        let model = model();
        let mut node = start(&model).unwrap();
        let (mut standby, mut keeper) = stand_by(&model);
        let mut store = model.clone();
        assert_eq!(standby.has_shown(&mut store), Ok(Some(true)), "nothing is shown");
        node.append().unwrap();
        node.append().unwrap();
        standby.follow().unwrap();
        standby.confirm(&mut store, &[]).unwrap();
        assert_eq!(standby.has_shown(&mut store), Ok(Some(true)));
        model.fail_over();
        model.pass(TIME);
        assert_eq!(standby.has_shown(&mut store), Ok(None), "who is no member cannot know");
        keeper.step().unwrap();
        if goes_on {
            let mut node = start(&model).unwrap();
            node.writer.append(&group(3, &[(2, 77)])).unwrap();
            node.append().unwrap();
            let failure = standby.follow().unwrap_err();
            assert!(matches!(failure, ReadError::Damaged(_)), "{failure}");
        } else {
            assert!(standby.follow().unwrap().is_empty());
        }
        assert_eq!(standby.has_shown(&mut store), Ok(Some(false)));
        assert_eq!(standby.has_read(&mut store), Ok(Some(false)));
    }
}

#[test]
fn who_reads_a_server_that_was_left_behind_finds_out() {
    let model = model();
    let mut node = start(&model).unwrap();
    let (mut standby, _keeper) = stand_by(&model);
    let (reader, mut store) = (standby.reader(), model.clone());
    node.append().unwrap();
    assert_eq!(standby.follow().unwrap().len(), 1);
    model.leave_behind(1);
    node.append().unwrap();
    assert!(standby.follow().unwrap().is_empty() && standby.is_at_end(), "nothing tells");
    assert_eq!(standby.confirm(&mut store, &[]), Ok(Confirmed::Shown), "it is there as well");
    assert!(standby.follow().unwrap().is_empty() && !standby.is_at_end(), "there must be more");
    assert_eq!(standby.follow().unwrap().len(), 1);
    assert_eq!(standby.confirm(&mut store, &[]), Ok(Confirmed::Shown));

    // Before what was read from it.
    model.leave_behind(1);
    assert!(standby.follow().unwrap().is_empty() && !standby.is_at_end());
    assert!(standby.follow().unwrap().is_empty() && standby.is_at_end());

    // Whoever reads what is shown.
    model.leave_behind(1);
    assert_eq!(reader.block(3).unwrap().last_position(), 4);

    // Once the log is its own.
    node.append().unwrap();
    node.writer.close().unwrap();
    model.leave_behind(2);
    let owner = standby.claim(&mut store).unwrap().unwrap();
    // What comes after it has stood still is not its own any more.
    model.pass(TIME);
    model.leave_behind(3);
    start(&model).unwrap().append().unwrap();
    model.leave_behind(2);
    for count in [0, 1, 0] {
        assert_eq!(standby.follow().unwrap().len(), count);
    }
    standby.take(Box::new(model.clone()), owner).unwrap();
    assert_eq!(read_all(&*reader), [(2, 100); 3]);
}

#[test]
fn a_standby_follows_and_takes_over() {
    let model = model();
    let mut node = start(&model).unwrap();
    let (mut standby, _keeper) = stand_by(&model);
    for round in 1..5 {
        node.append().unwrap();
        let blocks = standby.follow().unwrap();
        for block in &blocks {
            check_block(block);
        }
        assert_eq!(standby.position(), round * 2);
        assert!(standby.claim(&mut model.clone()).unwrap().is_none());
    }
    node.append().unwrap();
    node.writer.close().unwrap();
    let owner = standby.claim(&mut model.clone()).unwrap().unwrap();
    assert_eq!(owner.position(), 10);
    assert_eq!(standby.follow().unwrap().len(), 1);
    let (mut writer, reader) = standby.take(Box::new(model.clone()), owner).unwrap();
    assert_eq!(writer.append(&group(11, &[(1, 1)])).unwrap(), reader.head());
    assert_eq!(read_all(&*reader).len(), 6);
}

#[test]
fn a_lease_is_counted_from_before_it_was_asked_for() {
    let model = model();
    let (lease, mut keeper) = model.member();
    assert_eq!(lease.node(), None);
    keeper.step().unwrap();
    let first = lease.node().unwrap();
    model.pass((TIME * 3 / 4).checked_sub(Duration::from_nanos(1)).unwrap());
    assert_eq!(lease.node(), Some(first));
    model.pass(Duration::from_nanos(1));
    assert_eq!(lease.node(), None);
    keeper.step().unwrap();
    assert_eq!(lease.node(), Some(first), "its time was not over elsewhere");
    model.pass(TIME);
    keeper.step().unwrap();
    assert_ne!(lease.node().unwrap(), first, "a node whose time was over is never one again");
}
