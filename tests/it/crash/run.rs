//! A run: a ledger on disk, the servers that come and go over it, and all that is known of it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use daybook::proto::Event;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{
    audit::{self, Reader},
    call::{self, Call, Client, Shape, Verdict, request_id},
    ledger::Ledger,
    load::{self, Pool},
    random::Random,
};
use crate::process::Server;

/// How many clients command at once.
const CLIENTS: usize = 64;
/// Over how many connections.
const CONNECTIONS: usize = 4;
/// How many commands are repeated in one batch.
const REPEATS_PER_BATCH: usize = 250;
/// How many older commands are repeated after each restart, besides all of the newest cycle.
const OLD_REPEATS: usize = 250;
/// How many events that were read before are read again after a restart; at the end it is all of
/// them. It is the whole log of a short run, and keeps a long one from growing with the square.
const READ_AGAIN_MAX: i64 = 50_000;
/// For how many of the newest positions request ids are remembered for certain: the default of
/// the server, without what a few open commands may add while repeats are on their way.
const REMEMBERED_MIN: i64 = 1_040_000;
/// One in so many starts finds no checkpoint, and has to read the whole log.
const LOST_CHECKPOINT_ONE_IN: u64 = 4;
/// How long a stop may take: the default grace for calls, and as long again for the rest.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long to wait between two looks at something that is still to come.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, and well.
    Stopped,
}

/// What a run has done. Everything in it was checked.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: usize,
    /// Those of them that came before the ledger was recovered.
    pub(crate) kills_in_recovery: usize,
    /// Commands that were accepted, or began as a saga, before any kill touched them.
    pub(crate) acknowledged: usize,
    /// Commands without answer that turned out to have happened, and not to have.
    pub(crate) unknown_done: usize,
    pub(crate) unknown_not_done: usize,
    pub(crate) repeats: usize,
    pub(crate) refused: usize,
    /// Unfinished groups that a start has cut off.
    pub(crate) torn: usize,
    /// Starts that went on from a checkpoint.
    pub(crate) resumed: usize,
}

/// A server under load.
pub(crate) struct Load {
    /// Whether calls may be without answer from now on.
    may_fail: Arc<AtomicBool>,
    /// Whether the clients are to end.
    stopped: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Call>>>,
    tail: JoinHandle<Vec<Event>>,
}

impl Load {
    /// From now on calls may be without answer; whose call is ends.
    fn may_fail(&self) {
        self.may_fail.store(true, Ordering::Relaxed);
    }

    /// Lets all clients end, also those that always had an answer.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct Run {
    directory: TempDir,
    seed: u64,
    begun: Instant,
    random: Random,
    pool: Arc<Mutex<Pool>>,
    ledger: Ledger,
    calls: Vec<Call>,
    /// How many of the calls have been checked.
    checked: usize,
    /// How many events the checked calls stand for.
    claimed: usize,
    /// How many events there may be of commands whose outcome nobody will ever know.
    unclaimed_max: usize,
    /// What one tail got that resumed over all restarts.
    tailed: Vec<Event>,
    pub(crate) tally: Tally,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            seed,
            begun: Instant::now(),
            random: Random::new(seed),
            pool: Arc::default(),
            ledger: Ledger::default(),
            calls: Vec::new(),
            checked: 0,
            claimed: 0,
            unclaimed_max: 0,
            tailed: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts a server, checks that nothing was lost, puts it under load for a random time, and
    /// ends it in the middle of that.
    pub(super) async fn cycle(&mut self, end: End) {
        if self.random.below(LOST_CHECKPOINT_ONE_IN) == 0 {
            let _there_may_be_none = std::fs::remove_file(self.data_dir().join("checkpoint"));
        }
        let mut server = Server::start(self.data_dir()).await;
        self.check(&server, false).await;
        let load = self.begin_load(&server, false).await;
        load.may_fail();
        match end {
            End::Killed => server.kill(),
            End::Stopped => {
                server.terminate();
                assert_eq!(server.exit_code(STOP_WITHIN).await, 0, "{:?}", server.lines());
            }
        }
        self.end_load(load).await;
        self.tally.kills += usize::from(end == End::Killed);
        self.bury(server).await;
    }

    /// Puts a server under load for a random time; then it goes on.
    pub(crate) async fn begin_load(&mut self, server: &Server, may_fail: bool) -> Load {
        let (may_fail, stopped) = (Arc::new(AtomicBool::new(may_fail)), Arc::default());
        let connections = join_all((0..CONNECTIONS).map(|_| server.connect())).await;
        let client = |number: usize| Client::new(connections[number % CONNECTIONS].clone());
        let clients = (0..CLIENTS).map(|number| {
            let random = Random::new(self.random.next());
            let (pool, may_fail) = (Arc::clone(&self.pool), Arc::clone(&may_fail));
            let clients = [client(number), client(number + 1)];
            let stopped: Arc<AtomicBool> = Arc::clone(&stopped);
            tokio::spawn(load::command_until_killed(clients, pool, random, may_fail, stopped))
        });
        let clients = clients.collect();
        let tailed = std::mem::take(&mut self.tailed);
        let tail = follow(server.connect().await, tailed, Arc::clone(&stopped));
        let tail = tokio::spawn(tail);
        tokio::time::sleep(Duration::from_millis(100 + self.random.below(500))).await;
        Load { may_fail, stopped, clients, tail }
    }

    /// Waits until all clients have ended, and keeps what they were told.
    pub(crate) async fn end_load(&mut self, load: Load) {
        for calls in join_all(load.clients).await {
            self.calls.extend(calls.expect("a client found a fault"));
        }
        self.tailed = load.tail.await.expect("the tail found a fault");
    }

    /// Stops a server that has nothing to do. Gives the position it stopped at.
    pub(super) async fn stop(&mut self, mut server: Server) -> i64 {
        let position = audit::stats(&mut Reader::new(server.connect().await)).await.position;
        server.terminate();
        assert_eq!(server.exit_code(STOP_WITHIN).await, 0, "{:?}", server.lines());
        self.bury(server).await;
        position
    }

    /// Starts a server, and kills it before or while it recovers the ledger, or just after.
    pub(super) async fn kill_early(&mut self, within_ms: u64) {
        let mut server = Server::spawn(self.data_dir());
        tokio::time::sleep(Duration::from_millis(self.random.below(within_ms))).await;
        server.kill();
        let recovered = server.lines().iter().any(|line| line.contains("\"serving\""));
        self.tally.kills += 1;
        self.tally.kills_in_recovery += usize::from(!recovered);
        self.bury(server).await;
    }

    /// Takes leave of a server that has ended.
    pub(super) async fn bury(&mut self, mut server: Server) {
        server.assert_calm().await;
        let is_cut = |line: &&String| line.contains("an unfinished group was cut");
        self.tally.torn += server.lines().iter().filter(is_cut).count();
        let is_resumed = |line: &&String| line.contains("going on from the checkpoint");
        self.tally.resumed += server.lines().iter().filter(is_resumed).count();
    }

    /// Compares the ledger with all that was ever acknowledged, makes every outcome known, and
    /// compares again.
    pub(crate) async fn check(&mut self, server: &Server, thorough: bool) {
        let channel = server.connect().await;
        let (mut reader, mut client) = (Reader::new(channel.clone()), Client::new(channel));
        let after = if thorough { 0 } else { (self.ledger.head() - READ_AGAIN_MAX).max(0) };
        self.ledger.take_again(after, audit::read_log(&mut reader, after).await);
        self.ledger.settle();
        assert!(self.ledger.events.starts_with(&self.tailed), "a tail has shown something else");
        for call in &self.calls[self.checked..] {
            audit::confirm(&self.ledger, call);
            let recorded = |verdict: &&Verdict| matches!(verdict, Verdict::Recorded { .. });
            self.tally.acknowledged += call.verdicts.iter().filter(recorded).count();
        }

        self.make_known(&client).await;
        self.repeat(&mut client, thorough).await;

        let tailed = i64::try_from(self.tailed.len()).expect("a log fits in memory");
        let head = audit::stats(&mut reader).await.position;
        let resumed = audit::tail(&mut reader, tailed, head, &mut self.tailed).await;
        resumed.expect("the tail resumes");
        for event in &self.tailed[self.ledger.events.len()..] {
            self.ledger.take(event.clone());
        }
        self.ledger.settle();
        self.close_books();
        if !self.ledger.events.is_empty() {
            audit::compare(&self.ledger, &mut reader, &mut self.random, thorough).await;
        }
    }

    /// Sends every command whose outcome is unknown again, just as it was.
    async fn make_known(&mut self, client: &Client) {
        let open = self.calls[self.checked..].iter_mut();
        let open = open.filter(|call| call.is_open() && call.is_repeatable());
        let counts = join_all(open.map(async |call| {
            let mut client = client.clone();
            let verdicts = call.send(&mut client, &AtomicBool::new(false)).await;
            let was_open = call.verdicts.iter().map(|verdict| *verdict == Verdict::Unknown);
            let was_open: Vec<_> = was_open.collect();
            call.learn(verdicts);
            let mut counts = (0, 0);
            for (_, verdict) in was_open.into_iter().zip(&call.verdicts).filter(|(open, _)| *open) {
                match verdict {
                    Verdict::Recorded { replayed: true, .. } => counts.0 += 1,
                    _ => counts.1 += 1,
                }
            }
            counts
        }));
        for (done, not_done) in counts.await {
            self.tally.unknown_done += done;
            self.tally.unknown_not_done += not_done;
        }
    }

    /// Repeats what was recorded since the last check, and some of what was recorded before: the
    /// answers are the first ones, word for word.
    async fn repeat(&mut self, client: &mut Client, thorough: bool) {
        let old = if thorough { OLD_REPEATS * 8 } else { OLD_REPEATS };
        let old = if self.checked == 0 { 0 } else { old };
        let mut chosen: Vec<_> = (0..old).map(|_| self.random.place(self.checked)).collect();
        chosen.extend(self.checked..self.calls.len());
        let forgotten = (self.ledger.head() - REMEMBERED_MIN).max(0);
        let commands = chosen.into_iter().flat_map(|place| self.calls[place].known());
        let recorded: Vec<_> = commands
            .filter(|(command, verdict)| {
                call::last_position(verdict) > Some(forgotten) && !request_id(command).is_empty()
            })
            .collect();
        for some in recorded.chunks(REPEATS_PER_BATCH) {
            let commands = some.iter().map(|(command, _)| (*command).clone()).collect();
            let mut call = Call::new(Shape::Batch, commands);
            let verdicts = call.send(client, &AtomicBool::new(false)).await;
            call.verdicts = some.iter().map(|(_, verdict)| (*verdict).clone()).collect();
            call.learn(verdicts);
            assert_eq!(call.repeats, some.len());
            self.tally.repeats += call.repeats;
        }
    }

    /// Checks the newest calls again, now that all is known, and that no event is nobody's.
    fn close_books(&mut self) {
        for call in &self.calls[self.checked..] {
            audit::confirm(&self.ledger, call);
            self.claimed += audit::claimed(&self.ledger, call);
            self.tally.repeats += call.repeats;
            let refused = |verdict: &&Verdict| matches!(verdict, Verdict::Refused(_));
            self.tally.refused += call.verdicts.iter().filter(refused).count();
            // At most a transfer of five events.
            self.unclaimed_max += 5 * usize::from(call.is_open());
        }
        self.checked = self.calls.len();
        let found = self.ledger.events.len();
        assert!(
            (self.claimed..=self.claimed + self.unclaimed_max).contains(&found),
            "{found} events, {} acknowledged, and at most {} of unknown outcome",
            self.claimed,
            self.unclaimed_max
        );
    }

    /// One line that tells what was done and found.
    pub(crate) fn summary(&self) -> String {
        let Tally { kills, kills_in_recovery, acknowledged, repeats, refused, torn, .. } =
            &self.tally;
        let Tally { unknown_done, unknown_not_done, resumed, .. } = &self.tally;
        let mut sagas = BTreeMap::new();
        for story in self.ledger.stories.values() {
            *sagas.entry(story.state.as_str_name().replace("SAGA_STATE_", "")).or_insert(0) += 1;
        }
        format!(
            "kills {kills} ({kills_in_recovery} in recovery), acknowledged {acknowledged}, lost 0, \
             unknown {} ({unknown_done} had happened), repeats {repeats}, refused {refused}, \
             sagas {sagas:?}, torn groups {torn}, starts from a checkpoint {resumed}, \
             positions {}, seed {}, {:.1} s",
            unknown_done + unknown_not_done,
            self.ledger.head(),
            self.seed,
            self.begun.elapsed().as_secs_f32(),
        )
    }
}

/// Resumes behind `events`, and follows until the server is gone, or that is stopped.
async fn follow(channel: Channel, mut events: Vec<Event>, stopped: Arc<AtomicBool>) -> Vec<Event> {
    let after = i64::try_from(events.len()).expect("a log fits in memory");
    let until_stopped = async {
        while !stopped.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let mut reader = Reader::new(channel);
    tokio::select! {
        ended = audit::tail(&mut reader, after, i64::MAX, &mut events) => {
            assert!(ended.is_err(), "a tail has no end of its own");
        }
        () = until_stopped => {}
    }
    events
}
