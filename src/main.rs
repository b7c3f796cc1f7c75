//! The binary: parses, configures, runs, and says by its exit code how it went.

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use daybook::{
    access::{Gate, LoadError},
    cli::{
        self, BackupArgs, BenchArgs, CliError, HealthcheckArgs, RestoreArgs, Site, TailArgs,
        TokenArgs,
    },
    log::{AppendError, ReadError, file::OpenError, shared::StandbyError},
    ops::{
        Clock as _, SystemClock,
        config::{self, Config, ConfigError, DatabaseConfig, DatabaseUrl, ServeArgs},
        telemetry::{self, LogFormat},
        traces::{CollectorError, TracesError},
    },
    postgres::{self, READ_ONLY, SetUp, StartError},
    server::{self, Listeners, ServeError, shared::DatabaseError, tls::TlsError},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, warn};
use uuid::Uuid;

/// Many small messages are allocated on one thread and freed on another: this allocator is made
/// for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line or the configuration is wrong (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;
/// The log is damaged, or not the expected one (`EX_DATAERR`).
const EXIT_DAMAGED: u8 = 65;
/// The data directory or the network cannot be used (`EX_IOERR`).
const EXIT_IO: u8 = 74;
/// The data directory, or the log in the database, is another process's, or not what it was
/// (`EX_TEMPFAIL`).
const EXIT_IN_USE: u8 = 75;
/// Anything else.
const EXIT_FAILURE: u8 = 1;

const EXIT_HELP: &str = "Exit codes: 0 done, 1 failed while running, 64 wrong usage or \
    configuration, 65 the log is damaged, of an unknown format or not the expected one, 74 a \
    directory, file, address or database cannot be used, 75 the data directory, or the log in \
    the database, is in use by another process or not what it was: start again.";

/// An event-sourced bank ledger as a gRPC service.
#[derive(Parser)]
#[command(name = "daybook", version, args_conflicts_with_subcommands = true)]
#[command(after_help = EXIT_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serves the ledger; this is what daybook does without a command
    Serve(ServeArgs),
    /// Tells the settings that the server would have, or what is wrong with them
    CheckConfig(ServeArgs),
    /// Makes the tables of a ledger in a database, or sees that they are there and fit
    Init(InitArgs),
    /// Asks a server whether it serves
    Healthcheck(HealthcheckArgs),
    /// Prints events as they come
    Tail(TailArgs),
    /// Verifies a data directory that no server uses, or a ledger in a database
    Verify(VerifyWhere),
    /// Copies the log of a data directory, also while a server uses it
    Backup(BackupArgs),
    /// Makes a data directory from a backup
    Restore(RestoreArgs),
    /// Takes a ledger from a data directory into a database, or back
    ///
    /// As it is: with its log id, and every position, time and hash. No server may use either
    /// meanwhile. The source stays as it is. Into a database that has no ledger, or only a
    /// beginning of this one: run it again after it was interrupted, and it goes on. Back into a
    /// new directory, or one without files. At the end the target is verified and compared with
    /// the source. Prints the position, the hash, and what the ledger adds up to.
    Migrate(MigrateWhere),
    /// Puts load on a server, and measures it
    ///
    /// It opens accounts in the ledger and moves money between them, which stay there for ever as
    /// all that is recorded: never use it on a ledger that matters.
    Bench(BenchArgs),
    /// Makes a bearer token, and the lines of the credentials file that know it
    Token(TokenArgs),
    /// Prints what a shell needs to complete commands and flags
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Prints the manual page
    Man,
}

#[derive(clap::Args)]
struct InitArgs {
    /// A role of the database that is to have the rights that a server needs, and no others
    /// [default: none]
    #[arg(long, value_name = "ROLE")]
    grant: Option<String>,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(clap::Args)]
struct VerifyWhere {
    #[command(flatten)]
    verify: cli::VerifyArgs,

    /// The database that keeps the ledger, as the server takes it: rather give it in the
    /// environment if it holds a password [default: none, the directory is verified]
    #[arg(long, value_name = "URL", env = "DAYBOOK_DATABASE_URL", hide_env_values = true)]
    #[arg(conflicts_with = "data_dir")]
    database_url: Option<DatabaseUrl>,
}

#[derive(clap::Args)]
struct MigrateWhere {
    #[command(flatten)]
    migrate: cli::MigrateArgs,

    /// The database that shall keep the ledger, or does, as the server takes it: rather give it in
    /// the environment if it holds a password
    #[arg(long, value_name = "URL", env = "DAYBOOK_DATABASE_URL", hide_env_values = true)]
    database_url: DatabaseUrl,
}

/// How the process ends when it does not end well.
#[derive(Debug)]
struct Failure {
    message: String,
    exit_code: u8,
}

fn main() -> ExitCode {
    let cli = match config::read_command_line::<Cli>() {
        Ok(cli) => cli,
        Err(error) => {
            let _nobody_may_read_it = error.print();
            let usage = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return ExitCode::from(usage);
        }
    };
    let run = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve(args),
        Command::CheckConfig(args) => check_config(args),
        Command::Init(args) => init(args),
        Command::Healthcheck(args) => {
            runtime().and_then(|runtime| Ok(runtime.block_on(cli::healthcheck(args))?))
        }
        Command::Tail(args) => runtime().and_then(|runtime| Ok(runtime.block_on(cli::tail(args))?)),
        Command::Verify(args) => verify(args),
        Command::Migrate(args) => migrate(args),
        Command::Backup(args) => cli::backup(&args).map_err(Failure::from),
        Command::Restore(args) => cli::restore(&args).map_err(Failure::from),
        Command::Bench(args) => {
            runtime().and_then(|runtime| Ok(runtime.block_on(cli::bench(args))?))
        }
        Command::Token(args) => cli::token(&args).map_err(Failure::from),
        Command::Completions { shell } => completions(shell).map_err(Failure::from),
        Command::Man => man().map_err(Failure::from),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, exit_code }) => {
            cli::tell(format_args!("daybook: {message}"));
            ExitCode::from(exit_code)
        }
    }
}

/// How long a thread that has read the log waits for more of it. What it had allocated and others
/// have freed is given back when it ends.
const READER_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How often the allocator is made to look for memory that it can give back, and what it takes for
/// that: a piece of a size that it maps by itself, of which nothing is touched.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);
const GIVE_BACK_BYTES: usize = 1 << 20;

/// Gives memory back that was freed. The allocator does it when a page of its own becomes free some
/// time after, which in a service that rests after much work never happens.
async fn give_memory_back() {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(GIVE_BACK_BYTES)));
    }
}

/// One thread carries all connections: a call costs half of what it costs on several, and the
/// writer, the syncer and the views have threads of their own.
fn runtime() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_current_thread();
    Ok(builder.enable_all().thread_keep_alive(READER_KEEP_ALIVE).build()?)
}

/// Prints the manual: the program's page, and those of its commands after it.
fn man() -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    cli::print(|out| {
        clap_mangen::Man::new(program.clone()).render(out)?;
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            clap_mangen::Man::new(command.clone()).render(out)?;
        }
        Ok(())
    })
}

/// Prints what a shell needs to complete commands. Made as a whole first: what makes it takes
/// nobody's leaving.
fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "daybook", &mut script);
    cli::print(|out| out.write_all(&script))
}

fn resolve(args: ServeArgs) -> Result<Config, Failure> {
    config::resolve(args).map_err(|error| Failure {
        exit_code: config_exit_code(&error),
        message: error.to_string(),
    })
}

fn check_config(args: ServeArgs) -> Result<(), Failure> {
    let config = resolve(args)?;
    if let Some(files) = &config.tls {
        server::tls::load(files).map_err(|error| Failure {
            exit_code: tls_exit_code(&error),
            message: error.to_string(),
        })?;
    }
    Gate::load(&config, Arc::new(SystemClock)).map_err(|error| Failure {
        exit_code: access_exit_code(&error),
        message: error.to_string(),
    })?;
    Ok(cli::print(|out| write!(out, "{config}"))?)
}

/// A database that a command works on without a server.
fn site(url: DatabaseUrl) -> Result<Site, Failure> {
    let site = DatabaseConfig::of(url).map_err(DatabaseError::from).and_then(|config| {
        let (database, lease) = (server::shared::database(&config)?, config.lease);
        Ok(Site { database, lease, now: server::shared::monotonic() })
    });
    site.map_err(|error| Failure {
        exit_code: database_exit_code(&error),
        message: error.to_string(),
    })
}

fn verify(args: VerifyWhere) -> Result<(), Failure> {
    match args.database_url {
        None => Ok(cli::verify(&args.verify)?),
        Some(url) => Ok(cli::verify_database(&args.verify, &site(url)?.database)?),
    }
}

fn migrate(args: MigrateWhere) -> Result<(), Failure> {
    let (site, now_micros) = (site(args.database_url)?, SystemClock.now_micros());
    Ok(cli::migrate(&args.migrate, &site, now_micros)?)
}

fn init(args: InitArgs) -> Result<(), Failure> {
    let config = resolve(args.serve)?;
    let Some(at) = &config.database else {
        let message = "init needs engine = \"postgres\": files are made by the server".into();
        return Err(Failure { message, exit_code: EXIT_USAGE });
    };
    let how = SetUp { new_log_id: *Uuid::now_v7().as_bytes(), grant: args.grant.as_deref() };
    let made = server::shared::database(at).and_then(|it| Ok(postgres::set_up(&it, &how)?));
    let log_id = made.map_err(|error| Failure {
        exit_code: database_exit_code(&error),
        message: error.to_string(),
    })?;
    Ok(cli::print(|out| writeln!(out, "the ledger is there: log {}", Uuid::from_bytes(log_id)))?)
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let has_url = args.database_url.is_some();
    let config = resolve(args)?;
    telemetry::init(config.log_format, &config.log_level);
    for name in config::unknown_variables(&Cli::command()) {
        warn!(name, "no setting has the name of this variable: it counts for nothing");
    }
    if has_url && config.database.is_none() {
        warn!("database_url counts for nothing: it needs the engine postgres");
    }
    let runtime = runtime()?;
    runtime.spawn(give_memory_back());
    let served = runtime.block_on(serve_until_told(&config));
    // Who reads lines of JSON finds it there as well.
    let is_read = !io::stderr().is_terminal() && config.log_format != LogFormat::Text;
    if let (Err(failure), true) = (&served, is_read) {
        error!(exit_code = failure.exit_code, "{}", failure.message);
    }
    // Whoever stops a start does not wait until the whole log was read.
    runtime.shutdown_background();
    served
}

async fn serve_until_told(config: &Config) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // From now on it asks for files to be read again, and does not end the process, also where
    // there are no files.
    let _hangup = signal(SignalKind::hangup())?;
    let calls = listen(config.listen).await?;
    let operations = match config.operations_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let listeners = Listeners { calls, operations };
    let shutdown = async move {
        either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            std::process::exit(EXIT_FAILURE.into());
        });
    };
    let served = server::serve(config, listeners, shutdown).await;
    served.map_err(|error| Failure::serving(&error, config))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| Failure {
        message: format!("cannot listen on {address}: {error}"),
        exit_code: EXIT_IO,
    })
}

/// Waits for the first of two signals. A second one, later, ends the process at once.
async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

fn open_exit_code(error: &OpenError) -> u8 {
    match error {
        OpenError::Locked { .. } => EXIT_IN_USE,
        OpenError::UnknownVersion { .. } => EXIT_DAMAGED,
        OpenError::NoLog
        | OpenError::Unfinished
        | OpenError::HalfRestored
        | OpenError::SegmentTooSmall { .. }
        | OpenError::Io { .. } => EXIT_IO,
    }
}

fn config_exit_code(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Unreadable { .. } => EXIT_IO,
        ConfigError::NotText { .. }
        | ConfigError::TooLarge { .. }
        | ConfigError::Invalid { .. }
        | ConfigError::Needs(..)
        | ConfigError::Excludes(..)
        | ConfigError::DatabaseUrl { .. }
        | ConfigError::Insecure { .. }
        | ConfigError::OneAddress { .. } => EXIT_USAGE,
    }
}

fn tls_exit_code(error: &TlsError) -> u8 {
    match error {
        TlsError::Unreadable { .. } => EXIT_IO,
        TlsError::File { .. } | TlsError::Pair(_) => EXIT_USAGE,
    }
}

fn traces_exit_code(error: &TracesError) -> u8 {
    match error {
        TracesError::Collector(CollectorError::Unreadable { .. }) => EXIT_IO,
        TracesError::Environment(_) | TracesError::Collector(_) | TracesError::Exporter(_) => {
            EXIT_USAGE
        }
    }
}

fn database_exit_code(error: &DatabaseError) -> u8 {
    match error {
        DatabaseError::Url(_)
        | DatabaseError::Roots { .. }
        | DatabaseError::Tls(_)
        | DatabaseError::NoRoots => EXIT_USAGE,
        DatabaseError::UnreadableRoots { .. } => EXIT_IO,
        DatabaseError::Stopped => EXIT_FAILURE,
        DatabaseError::Lost => EXIT_IN_USE,
        DatabaseError::Start(start) => start_exit_code(start),
        DatabaseError::Standby(StandbyError::Read(ReadError::Damaged(_)))
        | DatabaseError::Unsound(_) => EXIT_DAMAGED,
        DatabaseError::Standby(StandbyError::Read(ReadError::Io(_)) | StandbyError::Store(_)) => {
            EXIT_IO
        }
    }
}

fn start_exit_code(error: &StartError) -> u8 {
    match error {
        // What is read-only may be about to become the one that is written.
        StartError::Unreachable(_)
        | StartError::Refused(_)
        | StartError::Unfinished
        | StartError::Unsafe { name: READ_ONLY, .. } => EXIT_IO,
        StartError::Unsafe { .. }
        | StartError::Right { .. }
        | StartError::NoRole(_)
        | StartError::NoLedger(_)
        | StartError::Incomplete(_)
        | StartError::Partitions { .. } => EXIT_USAGE,
        StartError::Newer { .. } | StartError::OtherLog { .. } => EXIT_DAMAGED,
    }
}

fn access_exit_code(error: &LoadError) -> u8 {
    match error {
        LoadError::Unreadable { .. } => EXIT_IO,
        LoadError::Mode { .. } | LoadError::TooLarge { .. } | LoadError::Wrong { .. } => EXIT_USAGE,
    }
}

impl Failure {
    fn serving(error: &ServeError, config: &Config) -> Self {
        let directory = config.data_dir.display();
        let (message, exit_code) = match error {
            ServeError::Open(open) => (format!("{directory}: {error}"), open_exit_code(open)),
            ServeError::Tls(tls) => (error.to_string(), tls_exit_code(tls)),
            ServeError::Traces(traces) => (error.to_string(), traces_exit_code(traces)),
            ServeError::Access(access) => (error.to_string(), access_exit_code(access)),
            ServeError::Directory(_) | ServeError::Io(_) => (error.to_string(), EXIT_IO),
            ServeError::Moved => (format!("{directory}: {error}"), EXIT_IO),
            ServeError::Database(database) => (error.to_string(), database_exit_code(database)),
            ServeError::Fenced => (error.to_string(), EXIT_IN_USE),
            ServeError::Reflection(_) | ServeError::Panicked(_) | ServeError::Latched => {
                (error.to_string(), EXIT_FAILURE)
            }
        };
        Self { message, exit_code }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { message: error.to_string(), exit_code: EXIT_IO }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        let exit_code = match &error {
            CliError::Usage(_) | CliError::Token(_) => EXIT_USAGE,
            CliError::Call(_) | CliError::Unsound(_) => EXIT_FAILURE,
            CliError::Damaged(_)
            | CliError::OtherHash { .. }
            | CliError::OtherLog(_)
            | CliError::NoBeginning { .. } => EXIT_DAMAGED,
            CliError::Open(open) => open_exit_code(open),
            CliError::Database(start) => start_exit_code(start),
            CliError::InUse { .. } | CliError::Append(AppendError::Fenced(_)) => EXIT_IN_USE,
            CliError::NotEmpty(_)
            | CliError::Uncertain(_)
            | CliError::Unreadable { .. }
            | CliError::Io(_)
            | CliError::NoLedger
            | CliError::Store(_)
            | CliError::Append(_) => EXIT_IO,
        };
        Self { message: error.to_string(), exit_code }
    }
}
