//! A ledger whose log several processes share: how this one takes part, and where calls go while
//! the ledger is another's.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto::ring};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};
use uuid::Uuid;

use super::{
    ServeError, resume,
    standby::{Owned, StandingBy, tell_owner},
};
use crate::{
    log::{
        Damage,
        shared::{Keeper, Lease, Membership, Monotonic, Source, StandbyError, Vault},
    },
    ops::{
        Gauge,
        config::{Config, ConfigError, DatabaseConfig, Security},
        pem::{self, PemError},
    },
    postgres::{Blocks, Checkpoints, Database, Epochs, Nodes, SetUp, StartError, Tls, set_up},
    wire::{Elsewhere, Late, PassedOn, Queries, Reads, Whose},
};

/// How long a connection to another process may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How many bytes of one answer of another process wait here until the caller takes them. Of all
/// answers of a connection that is as many times as much as there may be calls on it, so that one
/// that nobody takes is in the way of no other; of so many at most.
const ANSWER_BYTES_MAX: u32 = 32 * 1024;
const ANSWERS_MAX: u32 = 2_048;
/// How often another process is asked whether it lives while calls wait for it, and how long it
/// may take to answer: one that is cut off says nothing by itself.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Why the log of a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its URL is of no use.
    #[error("{0}")]
    Url(#[from] ConfigError),
    /// Authorities that others are to be believed by cannot be read.
    #[error("{name} = {path:?}: {error}")]
    UnreadableRoots {
        /// What names the file.
        name: &'static str,
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// There are none in it.
    #[error("{name} = {path:?}: {what}")]
    Roots {
        /// What names the file.
        name: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// TLS cannot be had.
    #[error("TLS to the database: {0}")]
    Tls(rustls::Error),
    /// The system knows none.
    #[error("the system has no authorities for the database: name a file with sslrootcert")]
    NoRoots,
    /// It cannot carry a ledger.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The log in it could not be followed or taken over.
    #[error("the log in the database: {0}")]
    Standby(#[from] StandbyError),
    /// It does not have what it had.
    #[error(
        "the database has lost what was read of the log: it was restored, or another one has \
         taken its place that had less; a new start reads what there is"
    )]
    Lost,
    /// The server stops before the log was its own.
    #[error("stopped while standing by")]
    Stopped,
    /// What is in it is no log.
    #[error("the log in the database does not add up: {0}")]
    Unsound(String),
}

impl From<Damage> for DatabaseError {
    fn from(damage: Damage) -> Self {
        Self::Standby(damage.into())
    }
}

/// What recovering a ledger has to know of the server around it, and tells it.
pub(super) struct Around {
    /// Where calls are taken.
    pub(super) listens: SocketAddr,
    /// Is told whose the log is while it is another process's.
    pub(super) owner: watch::Sender<Whose>,
    /// What can be read of the ledger meanwhile.
    pub(super) reads: Late<Arc<Reads>>,
    /// How long a call may take.
    pub(super) call_time: Duration,
    /// Says when nobody needs the ledger any more.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) role: Arc<Role>,
}

/// What part a server takes in a ledger that others may serve as well.
pub(super) struct Role {
    now: Monotonic,
    pub(super) lease: Arc<Lease>,
    pub(super) passed_on: Arc<PassedOn>,
    /// The position up to which the log was followed.
    pub(super) position: Gauge,
    /// When it was last followed to its end, in microseconds of the clock; the start before that.
    end_micros: Gauge,
    leaving: AtomicBool,
}

impl Role {
    /// None yet.
    pub(super) fn new() -> Self {
        let now = monotonic();
        let lease = Lease::new(Arc::clone(&now));
        let (passed_on, position, end_micros, leaving) = Default::default();
        let role = Self { now, lease, passed_on, position, end_micros, leaving };
        role.reached_end();
        role
    }

    /// From now on the log is left to others.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the log is left to others.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Notes how far the log was followed, and whether that is to its end.
    pub(super) fn followed(&self, position: u64, is_at_end: bool) {
        self.position.set(position);
        if is_at_end {
            self.reached_end();
        }
    }

    fn reached_end(&self) {
        let now = (self.now)().as_micros();
        self.end_micros.set(u64::try_from(now).unwrap_or(u64::MAX));
    }

    /// How long ago who stands by last knew all of the log.
    pub(super) fn lag(&self) -> Duration {
        (self.now)().saturating_sub(Duration::from_micros(self.end_micros.get()))
    }
}

/// Where a database is, as the settings say.
///
/// # Errors
/// [`DatabaseError`].
pub fn database(config: &DatabaseConfig) -> Result<Database, DatabaseError> {
    let tls = match &config.security {
        Security::None => None,
        Security::Verified { roots } => {
            let roots = match roots {
                Some(path) => roots_of("sslrootcert", path)?,
                None => pem::system_roots().ok_or(DatabaseError::NoRoots)?,
            };
            let provider = Arc::new(ring::default_provider());
            let versions = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(DatabaseError::Tls)?;
            let tls = versions.with_root_certificates(roots).with_no_client_auth();
            Some(Tls::new(Arc::new(tls)))
        }
    };
    Ok(Database::new(config.parsed()?, tls))
}

fn roots_of(name: &'static str, file: &Path) -> Result<RootCertStore, DatabaseError> {
    let path = file.display().to_string();
    let found = pem::read(file).and_then(|text| pem::roots(&text));
    found.map_err(|error| match error {
        PemError::Unreadable(error) => DatabaseError::UnreadableRoots { name, path, error },
        PemError::Wrong(what) => DatabaseError::Roots { name, path, what },
    })
}

/// How this process is reached by others of its ledger.
fn advertised(config: &Config, at: &DatabaseConfig, listens: SocketAddr) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    at.advertise.clone().unwrap_or_else(|| format!("{scheme}://{listens}"))
}

/// Where calls go while this process stands by, as `owner` tells, and `queries` for those that it
/// can answer by itself. They are counted there.
///
/// # Errors
/// [`DatabaseError`] when the authorities of others cannot be read.
pub(super) fn elsewhere(
    config: &Config,
    owner: watch::Receiver<Whose>,
    stopping: watch::Receiver<bool>,
    queries: Queries,
    role: &Role,
) -> Result<Option<Elsewhere>, DatabaseError> {
    let Some(at) = &config.database else { return Ok(None) };
    let roots = match &at.cluster_ca {
        Some(path) => Some(roots_of("cluster_ca", path)?),
        None => pem::system_roots(),
    };
    let own = config.tls.clone();
    let answers = config.limits.streams_per_connection.min(ANSWERS_MAX);
    let answers_bytes_max = answers.saturating_mul(ANSWER_BYTES_MAX);
    let connect = move |address: &str| {
        let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_stream_window_size(ANSWER_BYTES_MAX)
            .initial_connection_window_size(answers_bytes_max)
            .http2_keep_alive_interval(ALIVE_INTERVAL)
            .keep_alive_timeout(ALIVE_WITHIN);
        if !address.starts_with("https://") {
            // What callers prove themselves with came encrypted, and goes on so.
            return own.is_none().then_some(endpoint);
        }
        let mut tls = ClientTlsConfig::new().trust_anchors(roots.clone()?.roots);
        if let Some(files) = &own {
            let read = |path: &Path| pem::read(path).ok();
            let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
            tls = tls.identity(identity);
        }
        endpoint.tls_config(tls).ok()
    };
    let (connect, passed_on) = (Arc::new(connect), Arc::clone(&role.passed_on));
    let message_bytes = config.limits.message_bytes;
    Ok(Some(Elsewhere::new(owner, connect, stopping, passed_on, queries, message_bytes)))
}

/// Joins, follows the log, and takes it over as soon as it has no other owner. Blocks until then.
///
/// # Errors
/// [`DatabaseError`].
pub(super) fn recover(
    config: &Config,
    at: &DatabaseConfig,
    around: &Around,
) -> Result<Owned, ServeError> {
    let database = database(at)?;
    let how = SetUp { new_log_id: *Uuid::now_v7().as_bytes(), grant: None };
    let log_id = set_up(&database, &how).map_err(DatabaseError::from)?;
    let role = &*around.role;
    let members = Box::new(Nodes::new(database.clone(), advertised(config, at, around.listens)));
    let new_id = Box::new(|| *Uuid::now_v7().as_bytes());
    let mut keeper = Keeper::new(members, Arc::clone(&role.lease), at.lease, new_id);
    keeper.step().map_err(|error| DatabaseError::Standby(error.into()))?;
    let membership = Membership::begin(keeper)?;
    let mut store = Box::new(Epochs::new(database.clone(), log_id));
    let source: Arc<dyn Source> = Arc::new(Blocks::new(database.clone(), log_id));
    // Calls can be passed on while there is much to be read.
    let mut tell = || tell_owner(&mut *store, &around.owner);
    let (lease, window) = (&role.lease, config.request_id_window);
    let kept: Arc<dyn Vault> = Arc::new(Checkpoints::to_read(database.clone()));
    let (standby, following) = resume::begin(&source, &kept, lease, window, &mut tell);
    let standing_by = StandingBy::new(standby, following, window);
    let vault: Arc<dyn Vault> = Arc::new(Checkpoints::to_make(database));
    Ok(standing_by.take_over(store, &vault, membership, around)?)
}

/// The time since the machine was started, which goes on while it sleeps: a lease does as well.
#[must_use]
pub fn monotonic() -> Monotonic {
    Arc::new(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    })
}
