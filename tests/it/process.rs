//! The real binary as a child process: started over a directory, listened to, killed, and stopped.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use crate::engine;

/// After how many events a checkpoint is made: so often that kills meet it, and most starts begin
/// from one.
const CHECKPOINT_EVENTS: &str = "1024";
/// How long a start may take: many times what recovery takes here, also on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How often a connection is tried before the server counts as out of reach.
const CONNECT_TRIES_MAX: usize = 50;
/// How long to wait between two looks at something that is still to come.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A server in a process of its own. It dies with this value.
pub(crate) struct Server {
    child: Child,
    told: watch::Receiver<Told>,
}

/// What a process has told on standard error so far.
#[derive(Debug, Default)]
struct Told {
    /// Where it takes calls.
    address: Option<SocketAddr>,
    /// Where scrapers ask, if anywhere.
    operations: Option<SocketAddr>,
    /// Whether the ledger is recovered.
    is_serving: bool,
    /// Whether it will tell nothing more.
    has_ended: bool,
    lines: Vec<String>,
}

impl Told {
    fn add(&mut self, line: String) {
        let fields: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = || {
            let address = fields["address"].as_str().expect("the address is told");
            Some(address.parse().expect("an address and a port"))
        };
        match fields["message"].as_str() {
            Some("listening") => self.address = address(),
            Some("listening for operations") => self.operations = address(),
            Some("serving") => self.is_serving = true,
            _ => {}
        }
        self.lines.push(line);
    }

    /// The lines that no healthy server writes: errors, and what is not a line of its log at all.
    fn alarms(&self, calm: &[&str]) -> Vec<&String> {
        let is_alarm = |line: &&String| {
            let fields: Value = serde_json::from_str(line).unwrap_or_default();
            let level = fields["level"].as_str().unwrap_or_default();
            !["INFO", "WARN"].iter().chain(calm).any(|calm| *calm == level)
        };
        self.lines.iter().filter(is_alarm).collect()
    }
}

/// Drains a process's standard error, so that it is never held back by it.
fn listen(stderr: ChildStderr, told: &watch::Sender<Told>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        told.send_modify(|told| told.add(line));
    }
    told.send_modify(|told| told.has_ended = true);
}

impl Server {
    /// Starts a server over `data_dir`, on a port of its own, and waits for nothing.
    pub(crate) fn spawn(data_dir: &Path) -> Self {
        Self::spawn_with(data_dir, &[])
    }

    /// As [`Server::spawn`], with further flags.
    pub(crate) fn spawn_with(data_dir: &Path, flags: &[&str]) -> Self {
        let is_ephemeral = flags.contains(&"--ephemeral");
        let database = Some(data_dir).filter(|_| !is_ephemeral).and_then(engine::of_directory);
        let lease = format!("{}ms", engine::LEASE.as_millis());
        let database = database.as_ref().map(|url| {
            ["--engine", "postgres", "--database-url", url.as_str(), "--lease", lease.as_str()]
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_daybook"))
            .args(database.iter().flatten())
            .args(["--checkpoint-events", CHECKPOINT_EVENTS])
            .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            // No setting may come in from the environment of whoever runs the tests.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("standard error is piped");
        let (sender, told) = watch::channel(Told::default());
        thread::spawn(move || listen(stderr, &sender));
        Self { child, told }
    }

    /// Starts a server over `data_dir`, and waits until it has recovered the ledger.
    pub(crate) async fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[]).await
    }

    /// As [`Server::start`], with further flags.
    pub(crate) async fn start_with(data_dir: &Path, flags: &[&str]) -> Self {
        let mut server = Self::spawn_with(data_dir, flags);
        let serving = server.told.wait_for(|told| told.is_serving || told.has_ended);
        let serving = timeout(START_WITHIN, serving).await.expect("a start ends in time");
        let is_serving = serving.expect("its standard error is listened to").is_serving;
        assert!(is_serving, "the server did not start: {:?}", server.lines());
        server
    }

    /// Where it takes calls.
    pub(crate) fn address(&self) -> SocketAddr {
        self.told.borrow().address.expect("the server listens")
    }

    /// Where scrapers ask.
    pub(crate) fn operations(&self) -> SocketAddr {
        self.told.borrow().operations.expect("the server listens for operations")
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Channel {
        let address = self.address();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        for _ in 0..CONNECT_TRIES_MAX {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
        panic!("no connection to {address} after {CONNECT_TRIES_MAX} tries")
    }

    /// What the process has written to standard error so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.told.borrow().lines.clone()
    }

    /// Ends the process at once, as the kernel does when memory runs out: it cannot even notice.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Asks the process to stop.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Asks the process to read its files again.
    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// Waits until the process has written a line with this text.
    pub(crate) async fn wait_for_line(&mut self, text: &str) {
        assert!(self.tells(text).await, "no line has {text:?}: {:?}", self.lines());
    }

    /// Waits until the process has written a line with this text, or has ended without one.
    pub(crate) async fn tells(&mut self, text: &str) -> bool {
        let has_line = |told: &Told| told.lines.iter().any(|line| line.contains(text));
        let is_over = self.told.wait_for(|told| has_line(told) || told.has_ended);
        let told = timeout(START_WITHIN, is_over).await.expect("either comes in time");
        has_line(&told.expect("its standard error is listened to"))
    }

    /// Stops the process in the middle of whatever it does, until it is resumed or killed.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets a paused process go on: to it, no time has passed.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().expect("kill runs");
        assert!(sent.success(), "kill {name} could not be sent");
    }

    /// Whether the process has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be looked at").is_none()
    }

    /// Waits for the process to end by itself. Gives its exit code.
    pub(crate) async fn exit_code(&mut self, within: Duration) -> i32 {
        let looks = within.as_millis() / LOOK_AGAIN.as_millis();
        for _ in 0..looks {
            if let Some(status) = self.child.try_wait().expect("the process can be looked at") {
                return status.code().expect("no signal ended it");
            }
            sleep(LOOK_AGAIN).await;
        }
        panic!("still running after {within:?}: {:?}", self.lines())
    }

    /// Finds nothing alarming in all that a process wrote before it ended.
    pub(crate) async fn assert_calm(&mut self) {
        self.assert_calm_at(&[]).await;
    }

    /// As [`Server::assert_calm`], when it was told to write lines of further levels.
    pub(crate) async fn assert_calm_at(&mut self, calm: &[&str]) {
        self.listen_to_the_end().await;
        let alarms = self.told.borrow().alarms(calm).into_iter().cloned().collect::<Vec<_>>();
        assert!(alarms.is_empty(), "the server told of: {alarms:?}");
    }

    /// The last line that a process wrote before it ended.
    pub(crate) async fn last_word(&mut self) -> String {
        self.listen_to_the_end().await;
        self.told.borrow().lines.last().cloned().unwrap_or_default()
    }

    async fn listen_to_the_end(&mut self) {
        let ended = timeout(START_WITHIN, self.told.wait_for(|told| told.has_ended)).await;
        ended.expect("its standard error ends with it").expect("and is listened to");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_been_waited_for = self.child.wait();
    }
}

/// A process that does not outlive the test.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _it_may_have_ended = self.0.kill();
    }
}
