//! What must hold of blocks that are taken in as they are.

use std::sync::Arc;

use super::{
    model::{Fault, Model},
    *,
};
use crate::log::{
    Block,
    block::blocks_of,
    shared::{Import, Owner, Source},
};

/// Blocks of records of two events each, in groups of so many, as another log has them.
fn blocks(groups: &[usize]) -> (Vec<Block>, Head) {
    let (mut head, mut blocks) = (Head::start(&LOG_ID), Vec::new());
    for count in groups {
        let group = group(head.position + 1, &vec![(2, 100); *count]);
        let (more, after) = blocks_of(&group, head);
        blocks.extend(more.into_iter().map(|(block, _)| block));
        head = after;
    }
    (blocks, head)
}

fn import(model: &Model) -> (Import, Keeper) {
    let (lease, mut keeper) = model.member();
    keeper.step().unwrap();
    let owner = Owner::claim(&lease, &mut model.clone()).unwrap().expect("nobody else has it");
    let source: Arc<dyn Source> = Arc::new(model.clone());
    (Import::new(source, Box::new(model.clone()), lease, owner), keeper)
}

/// The shapes of a log that is read by whoever takes it over.
fn shapes(model: &Model) -> Vec<(u32, usize)> {
    read_all(&*start(model).expect("nobody has it").reader)
}

#[test]
fn blocks_are_taken_in_as_they_are() {
    let model = model();
    let (blocks, head) = blocks(&[1, 200, 3]);
    // As records of version 1 are kept.
    let older = |block: &Block| {
        let count = u32::try_from(block.last_position() - block.first_position() + 1).unwrap();
        Block::parse(1, block.first_position(), count, block.payload().to_vec()).unwrap()
    };
    let (mut import, _keeper) = import(&model);
    for (index, block) in blocks.iter().enumerate() {
        let is_time = if index < 2 { import.push(&older(block)) } else { import.push(block) };
        assert!(!is_time, "it is little");
    }
    assert_eq!(import.durable(), Head::start(&LOG_ID), "nothing is appended before it is said");
    assert_eq!(import.append().unwrap(), head);
    assert_eq!(import.append().unwrap(), head, "there is nothing more");
    import.close();
    let read = model.read(1, u64::MAX, 100).unwrap();
    let formats: Vec<u32> = read.blocks.iter().map(|block| block.format).collect();
    assert_eq!(formats[..3], [1, 1, crate::log::FORMAT_VERSION]);
    assert_eq!((read.blocks.len(), model.tip().head), (blocks.len(), head));
    assert_eq!(shapes(&model), [(2, 100); 204]);
}

#[test]
fn what_is_there_already_is_passed_over() {
    let (blocks, head) = blocks(&[1, 200, 3]);
    for first in 0..=blocks.len() {
        let model = model();
        let (mut beginning, _keeper) = import(&model);
        for block in &blocks[..first] {
            beginning.push(block);
        }
        beginning.append().unwrap();
        beginning.close();
        let (mut rest, _keeper) = import(&model);
        assert_eq!(rest.durable(), beginning.durable());
        for block in &blocks {
            rest.push(block);
        }
        assert_eq!(rest.append().unwrap(), head);
        rest.close();
        assert_eq!(shapes(&model), [(2, 100); 204]);
    }
}

#[test]
fn so_much_is_appended_at_once() {
    let model = model();
    let (mut import, _keeper) = import(&model);
    // Of one event in four bytes, and of two in a hundred: events are counted, and bytes are.
    for (shape, limit) in [((1_u32, 4_usize), 16 * 1024), ((2, 1_000), 2 * 1024 * 1024 / 1_000)] {
        let mut head = import.durable();
        let before = head.position;
        loop {
            let (more, after) = blocks_of(&group(head.position + 1, &[shape; 8]), head);
            head = after;
            if import.push(&more[0].0) {
                break;
            }
            assert!(head.position - before < limit, "{shape:?}");
        }
        assert!(head.position - before > limit * 9 / 10, "{shape:?} {}", head.position);
        import.append().unwrap();
    }
}

#[test]
fn an_append_without_an_answer_takes_blocks_in_once() {
    for fault in [Fault::Lost, Fault::Unanswered, Fault::Late] {
        let model = model();
        let (blocks, head) = blocks(&[1, 200, 3]);
        let (mut import, _keeper) = import(&model);
        for block in &blocks {
            import.push(block);
        }
        model.fail([fault].into_iter().chain([Fault::Lost; 20]));
        assert!(matches!(import.append(), Err(AppendError::Unreachable(_))), "{fault:?}");
        model.forget_faults();
        assert_eq!(import.append().unwrap(), head, "{fault:?}");
        model.deliver();
        import.close();
        assert_eq!(shapes(&model), [(2, 100); 204]);
    }
}

#[test]
fn nobody_takes_over_what_is_taken_in() {
    let model = model();
    let (blocks, _) = blocks(&[1, 1]);
    let (mut import, mut keeper) = import(&model);
    for _ in 0..5 {
        model.pass(TIME / 3);
        keeper.step().unwrap();
        assert!(start(&model).is_none());
    }
    import.push(&blocks[0]);
    import.append().unwrap();
    // Unless its time is over; then it takes nothing in any more.
    model.pass(TIME);
    let mut next = start(&model).unwrap();
    next.append().unwrap();
    assert!(matches!(import.append(), Err(AppendError::Unreachable(_))), "it knows of no time");
    keeper.step().unwrap();
    import.push(&blocks[1]);
    assert!(matches!(import.append(), Err(AppendError::Fenced(_))));
    assert!(matches!(import.append(), Err(AppendError::Latched)));
    assert_eq!(read_all(&*next.reader), [(2, 100); 2]);
}

#[test]
fn a_log_is_followed_to_a_head_and_no_further() {
    let model = model();
    let mut node = start(&model).unwrap();
    let mut heads = vec![node.reader.head()];
    for _ in 0..5 {
        heads.push(node.append().unwrap());
    }
    for head in &heads {
        let mut follower = crate::log::shared::Follower::new(Arc::new(model.clone()));
        let mut count = 0;
        loop {
            let blocks = follower.next(head.position, 2).unwrap();
            if blocks.is_empty() {
                break;
            }
            blocks.iter().for_each(check_block);
            count += blocks.len();
        }
        assert_eq!((follower.head(), u64::try_from(count).unwrap() * 2), (*head, head.position));
        for other in &heads {
            let end = follower.check_end(other);
            assert_eq!(end.is_ok(), other == head, "{end:?}");
        }
        let other = Head { hash: [7; 32], ..*head };
        assert!(follower.check_end(&other).is_err());
    }
}
