//! Metrics: what scrapers are told of the whole server, read from all rooms when somebody asks.
//!
//! It owns the names. No name or label holds anything of an account, an owner, a caller or a call
//! but its method, its code and its reason, and none of them are without end.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    checkpointer::CheckpointFigures, remembered::Remembered, scrubber::ScrubFigures, shared::Role,
};
use crate::{
    event_store::{EventStore, History, MAILBOX_COMMANDS_MAX, StoreStatus},
    ops::{
        Gauge, Presence,
        config::Config,
        exposition::{Page, Unit},
        figures::Distribution,
        process,
    },
    views::{SagaState, Totals, Views},
    wire::{CODES, METHODS, Meter, Method, Reads},
};

/// What is told of a server.
pub(super) struct Metrics {
    pub(super) meter: Meter,
    pub(super) connections: Presence,
    /// 1 once the server is going to stop.
    pub(super) draining: Gauge,
    /// When the server was started, in microseconds since 1970 UTC.
    started_micros: i64,
    /// The directory whose file system has to have room.
    data_dir: Option<PathBuf>,
    pub(super) role: Arc<Role>,
    /// Whether others may serve the ledger as well: without them there is no role to tell of.
    is_shared: bool,
    remembered: Remembered,
    /// There once the ledger is recovered.
    ledger: OnceLock<Sources>,
}

/// Where the figures of a ledger that runs are.
#[derive(Clone)]
pub(super) struct Sources {
    store: EventStore,
    reads: Arc<Reads>,
    pub(super) views: Arc<Views>,
    pub(super) history: History,
    pub(super) checkpoints: Arc<CheckpointFigures>,
    pub(super) scrub: Arc<ScrubFigures>,
}

impl Sources {
    pub(super) fn new(
        store: EventStore,
        reads: Arc<Reads>,
        views: Arc<Views>,
        history: History,
    ) -> Self {
        let (checkpoints, scrub) = (Arc::default(), Arc::default());
        Self { store, reads, views, history, checkpoints, scrub }
    }
}

/// The labels of a method.
const METHOD: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];

fn labels(method: &Method) -> [&'static str; 3] {
    [method.kind.name(), method.service, method.name]
}

impl Metrics {
    pub(super) fn new(config: &Config, meter: Meter, started_micros: i64) -> Self {
        Self {
            meter,
            connections: Presence::default(),
            draining: Gauge::default(),
            started_micros,
            data_dir: config.directory().map(Path::to_owned),
            role: Arc::new(Role::new()),
            is_shared: !config.ephemeral && config.database.is_some(),
            remembered: Remembered::new(config.request_id_window),
            ledger: OnceLock::new(),
        }
    }

    /// Says where the figures of the ledger are, now that it runs.
    pub(super) fn recovered(&self, sources: &Sources) {
        let _the_first_stays = self.ledger.set(sources.clone());
    }

    /// Puts everything on the page.
    pub(super) fn tell(&self, page: &mut Page<'_>) -> fmt::Result {
        self.tell_server(page)?;
        self.tell_calls(page)?;
        self.tell_refusals(page)?;
        if self.is_shared {
            self.tell_role(page)?;
        }
        if let Some(ledger) = self.ledger.get() {
            ledger.tell_writer(page)?;
            ledger.tell_log(page)?;
            // A log that cannot be reached is not waited for.
            let may_read = *ledger.store.status().borrow() == StoreStatus::Serving;
            self.remembered.tell(page, &ledger.history, may_read)?;
            ledger.tell_views(page)?;
            ledger.tell_checkpoints(page)?;
            ledger.tell_scrub(page)?;
        }
        tell_process(page)?;
        let started = u64::try_from(self.started_micros).unwrap_or(0);
        page.gauge(
            "process_start_time_seconds",
            "When the process was started",
            &Duration::from_micros(started).as_secs_f64(),
        )
    }

    fn tell_server(&self, page: &mut Page<'_>) -> fmt::Result {
        let build = [([env!("CARGO_PKG_VERSION")], 1)];
        page.gauges(("daybook_build_info", "The version that runs: always 1"), ["version"], build)?;
        let now = self.ledger.get().map(|ledger| *ledger.store.status().borrow());
        let states = [
            ("recovering", None),
            ("serving", Some(StoreStatus::Serving)),
            ("no_room", Some(StoreStatus::NoRoom)),
            ("unreachable", Some(StoreStatus::Unreachable)),
            ("latched", Some(StoreStatus::Latched)),
            ("fenced", Some(StoreStatus::Fenced)),
            ("damaged", Some(StoreStatus::Damaged)),
            ("stopped", Some(StoreStatus::Stopped)),
        ];
        let states = states.map(|(name, state)| ([name], u64::from(state == now)));
        page.gauges(
            ("daybook_state", "1 for what the ledger does now, and 0 for what it might"),
            ["state"],
            states,
        )?;
        page.gauge(
            "daybook_draining",
            "1 once the server is going to stop, and takes no calls for long",
            &self.draining.get(),
        )?;
        page.gauge(
            "daybook_connections_open",
            "Connections of callers that are open",
            &self.connections.get(),
        )?;
        let free = self.data_dir.as_deref().and_then(process::free_bytes);
        page.gauges(
            ("daybook_disk_free_bytes", "Room that the file system of the data directory has"),
            [],
            free.map(|bytes| ([], bytes)),
        )
    }

    fn tell_calls(&self, page: &mut Page<'_>) -> fmt::Result {
        // In this order, so that no call has ended that has not begun.
        let handled: Vec<_> = self.meter.handled().collect();
        let started: Vec<_> = METHODS.iter().zip(self.meter.started()).collect();
        page.counters(
            ("grpc_server_started", "Calls that have begun"),
            METHOD,
            started.iter().map(|(method, count)| (labels(method), *count)),
        )?;
        let by_code = METHODS.iter().zip(&handled).flat_map(|(method, codes)| {
            let codes = CODES.into_iter().zip(codes);
            codes.filter_map(move |(code, times)| {
                let [kind, service, name] = labels(method);
                Some(([kind, service, name, code], times.clone()?))
            })
        });
        let by_code: Vec<_> = by_code.collect();
        let [kind, service, name] = METHOD;
        let names = [kind, service, name, "grpc_code"];
        page.counters(
            ("grpc_server_handled", "Calls that have ended, by code"),
            names,
            by_code.iter().map(|(labels, times)| (*labels, times.count())),
        )?;
        let open = started.iter().zip(&handled).map(|((method, started), codes)| {
            let ended = codes.iter().flatten().map(Distribution::count);
            let ended = ended.fold(0, u64::saturating_add);
            (labels(method), started.saturating_sub(ended))
        });
        let help = "Calls that have begun and not ended, streams among them";
        page.gauges(("daybook_calls_open", help), METHOD, open)?;
        page.histograms(
            ("grpc_server_handling_seconds", "How long calls took that have ended, by code"),
            Unit::Nanoseconds,
            names,
            by_code,
        )
    }

    fn tell_refusals(&self, page: &mut Page<'_>) -> fmt::Result {
        let ledger = self.ledger.get();
        let of_commands = ledger.into_iter().flat_map(|ledger| ledger.reads.refusals().get());
        let mut of_commands = of_commands.map(|(_, count)| count);
        let counts = self.meter.refusals().map(|(reason, count)| {
            ([reason], count.saturating_add(of_commands.next().unwrap_or(0)))
        });
        let counts: Vec<_> = counts.collect();
        page.counters(
            (
                "daybook_refusals",
                "Calls, and commands of batches, that were answered with an error, by its reason",
            ),
            ["reason"],
            counts,
        )
    }

    fn tell_role(&self, page: &mut Page<'_>) -> fmt::Result {
        let Role { lease, passed_on, position, .. } = &*self.role;
        let epoch = lease.epoch();
        page.gauge(
            "daybook_ledger_owned",
            "1 while the ledger is certain to be this server's",
            &u64::from(epoch.is_some()),
        )?;
        page.gauge(
            "daybook_ledger_epoch",
            "The epoch that this server owns the ledger under; 0 while it does not",
            &epoch.unwrap_or(0),
        )?;
        page.gauge(
            "daybook_lease_remaining_seconds",
            "How long this server trusts its lease unless it is renewed; 0 without one",
            &lease.remaining().as_secs_f64(),
        )?;
        page.counters(
            (
                "daybook_calls_passed_on",
                "Calls that came while the ledger was another server's, by what became of them",
            ),
            ["outcome"],
            passed_on.get().map(|(outcome, count)| ([outcome], count)),
        )?;
        // Who has taken the ledger over follows nobody any more.
        if self.ledger.get().is_some() {
            return Ok(());
        }
        page.gauge(
            "daybook_standby_position",
            "The position up to which a server that stands by has followed the log",
            &position.get(),
        )?;
        page.gauge(
            "daybook_standby_lag_seconds",
            "How long ago a server that stands by has last read the log to its end",
            &self.role.lag().as_secs_f64(),
        )
    }
}

impl Sources {
    fn tell_writer(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "daybook_commands_waiting",
            "Commands in the mailbox of the writer or in a group that is not durable yet",
            &wide(self.store.waiting()),
        )?;
        page.gauge(
            "daybook_commands_waiting_max",
            "How many of them there may be; further ones are refused",
            &wide(MAILBOX_COMMANDS_MAX),
        )?;
        let figures = self.store.figures();
        page.histograms(
            ("daybook_group_commands", "Commands that were answered together, after one sync"),
            Unit::Count,
            [],
            [([], figures.group_commands.get())],
        )?;
        page.histograms(
            ("daybook_log_append_seconds", "How long it took to write and sync a group"),
            Unit::Nanoseconds,
            [],
            [([], figures.append_nanos.get())],
        )?;
        page.gauge(
            "daybook_decided_position",
            "The newest position that was decided, whether or not it is durable yet",
            &figures.decided.get(),
        )
    }

    fn tell_log(&self, page: &mut Page<'_>) -> fmt::Result {
        let log = self.history.log();
        let head = log.head();
        page.gauge("daybook_log_position", "The newest position that is durable", &head.position)?;
        page.gauge("daybook_log_bytes", "Bytes that the log has", &head.bytes)?;
        page.gauge("daybook_log_segments", "Files that the log is in", &wide(log.segment_count()))
    }

    fn tell_views(&self, page: &mut Page<'_>) -> fmt::Result {
        let head = self.history.log().head().position;
        let totals = self.views.books().totals();
        let Totals { account_count, open_account_count, transaction_count, .. } = totals;
        page.gauge(
            "daybook_views_position",
            "The newest position that reads see",
            &totals.position,
        )?;
        page.gauge(
            "daybook_views_lag_events",
            "Events that are durable and that reads do not see yet",
            &head.saturating_sub(totals.position),
        )?;
        page.gauge(
            "daybook_views_failed",
            "1 once reads are refused because the log does not add up",
            &u64::from(self.views.has_failed()),
        )?;
        let closed = account_count.saturating_sub(open_account_count);
        let accounts = [(["open"], open_account_count), (["closed"], closed)];
        page.gauges(("daybook_accounts", "Accounts, by state"), ["state"], accounts)?;
        page.gauge("daybook_transactions", "Events that changed a balance", &transaction_count)?;
        let sagas = totals.saga_counts.map(|(state, count)| ([saga_state(state)], count));
        page.gauges(("daybook_sagas", "Transfers, by how far they are"), ["state"], sagas)
    }

    fn tell_checkpoints(&self, page: &mut Page<'_>) -> fmt::Result {
        let figures = &self.checkpoints;
        page.counter(
            "daybook_checkpoints",
            "Checkpoints that were made since the start",
            figures.made.get(),
        )?;
        page.counter(
            "daybook_checkpoint_failures",
            "Checkpoints that could not be made",
            figures.failed.get(),
        )?;
        page.gauge(
            "daybook_checkpoint_position",
            "The position of the newest checkpoint; 0 without one",
            &figures.position.get(),
        )?;
        page.gauge(
            "daybook_checkpoint_duration_seconds",
            "How long the newest checkpoint took; 0 before one was made since the start",
            &Duration::from_nanos(figures.nanos.get()).as_secs_f64(),
        )?;
        page.gauges(
            (
                "daybook_checkpoint_timestamp_seconds",
                "When the newest checkpoint was made; nothing before one was since the start",
            ),
            [],
            since_1970(&figures.time),
        )
    }

    fn tell_scrub(&self, page: &mut Page<'_>) -> fmt::Result {
        let scrubbed = self.history.log().scrubbed();
        page.gauge(
            "daybook_scrubbed_position",
            "The position up to which the log was verified since the start",
            &scrubbed.position,
        )?;
        page.gauge(
            "daybook_scrub_damage",
            "1 once damage was found in the log",
            &u64::from(scrubbed.damage.is_some()),
        )?;
        page.counter(
            "daybook_scrubbed_segments",
            "Files of the log that were read and verified since the start, each time they were",
            self.scrub.segments.get(),
        )?;
        page.gauge(
            "daybook_scrub_failing",
            "1 while files of the log cannot be read to verify them",
            &self.scrub.failing.get(),
        )?;
        page.gauges(
            (
                "daybook_scrub_caught_up_timestamp_seconds",
                "When last nothing was left to verify; it stands still during a new pass",
            ),
            [],
            since_1970(&self.scrub.caught_up),
        )
    }
}

/// The number of a moment, once there was one.
fn since_1970(time: &Gauge) -> Option<([&'static str; 0], u64)> {
    let seconds = time.get();
    (seconds > 0).then_some(([], seconds))
}

fn saga_state(state: SagaState) -> &'static str {
    match state {
        SagaState::Running => "running",
        SagaState::Completed => "completed",
        SagaState::Failed => "failed",
        SagaState::Compensated => "compensated",
    }
}

fn tell_process(page: &mut Page<'_>) -> fmt::Result {
    // Where there is no /proc nothing is told: a zero would look like a fact.
    let Some(usage) = process::usage() else { return Ok(()) };
    page.seconds("process_cpu_seconds", "Time that processors were kept busy", usage.cpu)?;
    page.gauge(
        "process_resident_memory_bytes",
        "Memory that the process has",
        &usage.resident_bytes,
    )?;
    page.gauge(
        "process_virtual_memory_bytes",
        "Address space that the process has",
        &usage.virtual_bytes,
    )?;
    page.gauge("process_open_fds", "Files and connections that are open", &usage.open_files)?;
    page.gauge("process_max_fds", "How many of them may be open", &usage.open_files_max)?;
    page.gauge("process_threads", "Threads that the process has", &usage.threads)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{
        Exposition,
        config::{DatabaseConfig, Security},
    };

    /// What is told with these settings before the ledger is recovered, of which it has each line.
    fn page_with(config: &Config, started_micros: i64, lines: &[&str]) -> String {
        let metrics = Metrics::new(config, Meter::default(), started_micros);
        let page = Exposition::Prometheus.page(move |page| metrics.tell(page));
        for line in lines {
            assert!(page.contains(line), "{line}{page}");
        }
        page
    }

    #[test]
    fn a_server_is_told_of_before_its_ledger_is_recovered() {
        let config = Config { ephemeral: true, ..Config::default() };
        let lines = [
            "daybook_state{state=\"recovering\"} 1\n",
            "daybook_state{state=\"serving\"} 0\n",
            "daybook_refusals_total{reason=\"STARTING\"} 0\n",
            "process_start_time_seconds 1600000000.5\n",
        ];
        let page = page_with(&config, 1_600_000_000_500_000, &lines);
        for absent in [
            "daybook_log_",
            "\ndaybook_disk_free_bytes ",
            "grpc_server_handled_total{",
            "daybook_ledger_",
            "daybook_calls_passed_on",
            "daybook_standby_",
        ] {
            assert!(!page.contains(absent), "{absent}\n{page}");
        }
    }

    #[test]
    fn who_may_share_a_ledger_is_told_of_before_it_has_joined() {
        let url = "postgres://localhost/ledger".parse().unwrap();
        let (security, advertise, cluster_ca) = (Security::None, None, None);
        let lease = Duration::from_secs(2);
        let database = DatabaseConfig { url, security, lease, advertise, cluster_ca };
        let config = Config { database: Some(database), ..Config::default() };
        let lines = [
            "daybook_ledger_owned 0\n",
            "daybook_ledger_epoch 0\n",
            "daybook_lease_remaining_seconds 0.0\n",
            "daybook_calls_passed_on_total{outcome=\"answered\"} 0\n",
            "daybook_standby_position 0\n",
            // Since the start, and not since the machine was started.
            "daybook_standby_lag_seconds 0.0",
        ];
        page_with(&config, 0, &lines);
    }
}
