//! Somebody who knows the format edits a record and makes all checksums right again: the hash chain
//! tells.

use super::{sample, segments};
use crate::log::file::frame::{FrameHeader, HEADER_BYTES, Tie};
use crate::log::file::segment;
use crate::log::{chain, conformance::LOG_ID};
use crate::sim::disk::{Image, SimDisk};

/// Where the second group of the first segment begins: it is the one after a group of one sector
/// and its witness.
const OFFSET: usize = segment::HEADER_BYTES + 2 * 512;

/// Changes the last byte of a record, and gives the frame a header that fits. `chained` makes its
/// own hash fit as well.
fn edited(chained: bool) -> Image {
    let mut image = sample();
    let name = segments(&image).swap_remove(0);
    let file = image.get_mut(&name).unwrap();
    let tie = Tie::new(&LOG_ID, 1);
    let header = file[OFFSET..].first_chunk::<HEADER_BYTES>().unwrap();
    let mut header = FrameHeader::decode(header, tie, OFFSET as u64).unwrap();
    let start = OFFSET + HEADER_BYTES;
    let payload = &mut file[start..start + header.payload_bytes()];
    assert!(!payload.is_empty(), "it is a frame of records");
    *payload.last_mut().unwrap() ^= 1;
    header.payload_checksum = crc32c::crc32c(payload);
    if chained {
        let before = file[segment::HEADER_BYTES..].first_chunk::<HEADER_BYTES>().unwrap();
        let before = FrameHeader::decode(before, tie, segment::HEADER_BYTES as u64).unwrap();
        let payload = &file[start..start + header.payload_bytes()];
        header.chain = chain::extend(&before.chain, payload);
    }
    file[OFFSET..start].copy_from_slice(&header.encode(tie));
    image
}

fn found(image: &Image) -> String {
    let disk = SimDisk::of(image, 0);
    let verified = crate::log::file::verify(&disk, &mut |_, _| (), &mut |_, _| Ok(())).unwrap();
    verified.damage.expect("an edit is found").to_string()
}

#[test]
fn an_edited_record_breaks_the_chain() {
    assert!(found(&edited(false)).contains("the hash chain is broken"));
}

#[test]
fn so_does_one_with_a_hash_of_its_own_in_what_follows() {
    let what = found(&edited(true));
    assert!(what.contains("chain") || what.contains("does not continue"), "{what}");
}
