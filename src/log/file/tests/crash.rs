//! Random lives of a log: groups, marks, restarts, power cuts at any moment.

use super::{Shape, segments, try_open, verify};
use crate::log::AppendError;
use crate::log::file::segment::{SegmentHeader, make_version_1};
use crate::log::file::{OpenError, Opened, Options};
use crate::sim::disk::{Faults, Rng, SimDisk};

/// How many lives are lived, and how often each log crashes.
const SEEDS: u64 = 400;
const CRASHES: usize = 8;
/// One in so many logs was begun by a program that knew format version 1 only.
const OLDER_EVERY: u64 = 3;

struct Life {
    disk: SimDisk,
    rng: Rng,
    options: Options,
    acked: Shape,
    /// What was in flight at the last failure: all of it may be there, or nothing.
    unknown: Shape,
    /// The newest position of what a program of version 1 has written, if one has.
    older_until: Option<u64>,
}

/// What happened in all lives: a run in which nothing happened proves nothing.
#[derive(Debug, Default)]
struct Tally {
    groups: usize,
    torn: usize,
    unfinished: usize,
    kept_unknown: usize,
    segments: u64,
    grown_from_older: usize,
}

#[test]
fn after_any_crash_the_log_is_what_was_acknowledged() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let mut rng = Rng(seed);
        let segment_bytes = 512 * (12 + rng.below(40) as u64);
        let options = Options {
            first_segment_bytes: segment_bytes,
            segment_bytes,
            group_bytes_max: 2048,
            ..super::options()
        };
        let disk = SimDisk::new(seed);
        let (acked, unknown) = (Shape::new(), Shape::new());
        let mut life = Life { disk, rng, options, acked, unknown, older_until: None };
        if seed % OLDER_EVERY == 0 {
            life.begin_older();
        }
        for crash in 0..CRASHES {
            life.live(&format!("seed {seed}, crash {crash}"), &mut tally);
        }
        // The log may be without a file if it never lived to have one.
        if let Ok(verified) = verify(&life.disk) {
            tally.segments += verified.segments;
        }
        tally.grown_from_older += usize::from(life.check_older());
    }
    assert!(tally.groups > 5_000, "{tally:?}");
    assert!(tally.torn > 200, "{tally:?}");
    assert!(tally.unfinished > 5, "{tally:?}");
    assert!(tally.kept_unknown > 100, "{tally:?}");
    assert!(tally.segments > 1_500, "{tally:?}");
    assert!(tally.grown_from_older > 80, "{tally:?}");
}

impl Life {
    /// The log has some groups that a program of version 1 has written, or none yet.
    fn begin_older(&mut self) {
        let mut log = try_open(self.disk.shared(), &self.options).unwrap();
        for _ in 0..self.rng.below(20) {
            self.append(&mut log, &mut Tally::default()).unwrap();
        }
        self.older_until = Some(log.position());
        drop(log);
        let mut image = self.disk.image();
        make_version_1(&mut image);
        self.disk = SimDisk::of(&image, self.rng.next());
    }

    /// Whatever was added to a log of version 1 is in segments of version 2. Says whether
    /// something was.
    fn check_older(&self) -> bool {
        let image = self.disk.image();
        let header = |name: &String| {
            let sector = image[name].first_chunk();
            SegmentHeader::decode(sector.expect("a header")).expect("a header")
        };
        let headers: Vec<_> = segments(&image).iter().map(header).collect();
        assert!(headers.is_sorted_by_key(|header| header.format));
        let Some(until) = self.older_until else { return false };
        let newer = headers.iter().find(|header| header.format == 2);
        assert!(
            newer.is_some() || self.acked.iter().map(|it| u64::from(it.0)).sum::<u64>() == until
        );
        assert!(newer.is_none_or(|header| header.first_position == until + 1));
        newer.is_some()
    }

    /// Opens the log, checks it, uses it until something fails, and cuts the power.
    fn live(&mut self, what: &str, tally: &mut Tally) {
        let calls = self.rng.below(60);
        let kind = std::io::ErrorKind::Other;
        let short = self.rng.one_in(3);
        self.disk.set_faults(Faults {
            fail_after: Some((calls, kind)),
            short,
            ..Faults::default()
        });
        match try_open(self.disk.shared(), &self.options) {
            Ok(mut log) => {
                self.check(&log, what, tally);
                self.use_log(&mut log, tally);
            }
            Err(OpenError::Io { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        // Half of the time the process dies alone, and the page cache stays.
        if self.rng.one_in(2) {
            self.disk.crash();
        }
        // Whatever fate the disk chose, this is the log from now on.
        self.disk.set_faults(Faults::default());
        match verify(&self.disk) {
            Ok(verified) => assert_eq!(verified.damage, None, "{what}"),
            Err(OpenError::NoLog) => assert!(self.acked.is_empty(), "{what}"),
            Err(OpenError::Unfinished) => tally.unfinished += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }

    fn check(&mut self, log: &Opened, what: &str, tally: &mut Tally) {
        assert_eq!(log.damage, None, "{what}");
        let shapes = log.shapes();
        let with_unknown = [self.acked.clone(), self.unknown.clone()].concat();
        assert!(shapes == self.acked || shapes == with_unknown, "{what}: {shapes:?}");
        tally.torn += usize::from(log.torn.is_some());
        tally.kept_unknown += usize::from(shapes.len() > self.acked.len());
        self.acked = shapes;
        self.unknown.clear();
    }

    fn use_log(&mut self, log: &mut Opened, tally: &mut Tally) {
        for _ in 0..self.rng.below(40) {
            let outcome = match self.rng.below(8) {
                0 => log.witness(),
                1 if self.rng.one_in(4) => log.close(),
                _ => self.append(log, tally),
            };
            assert_eq!(
                log.position(),
                self.acked.iter().map(|(count, _)| u64::from(*count)).sum::<u64>()
            );
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(log.shapes(), self.acked, "what is durable is shown, and nothing else");
    }

    fn append(&mut self, log: &mut Opened, tally: &mut Tally) -> Result<(), AppendError> {
        let records = 1 + self.rng.below(4);
        let record = |rng: &mut Rng| (1 + u32::from(rng.one_in(3)), 1 + rng.below(500));
        let shape: Shape = (0..records).map(|_| record(&mut self.rng)).collect();
        match log.append(&shape) {
            Ok(_) => {
                tally.groups += 1;
                self.acked.extend(shape);
                Ok(())
            }
            Err(AppendError::Failed(error)) => {
                self.unknown = shape;
                Err(AppendError::Failed(error))
            }
            Err(error) => Err(error),
        }
    }
}
