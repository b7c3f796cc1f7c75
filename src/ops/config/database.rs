//! The settings of the engine on PostgreSQL.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr, time::Duration};

use tokio_postgres::config::Host;

use super::{Config, ConfigError, ServeArgs, quoted, quoted_path};

/// For how long a process owns the log unless it says that it still runs: little enough that
/// another one takes over soon, and enough for a statement that is slow now and then.
const LEASE_DEFAULT: Duration = Duration::from_secs(2);

/// What keeps the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Files in a directory of this machine.
    #[default]
    File,
    /// Tables of a PostgreSQL database, which several processes share.
    Postgres,
}

/// A URL as it was given. It may have a password in it, and is shown without.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub struct DatabaseUrl(String);

impl From<String> for DatabaseUrl {
    /// A line's end belongs to the file that a secret is kept in.
    fn from(text: String) -> Self {
        Self(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl FromStr for DatabaseUrl {
    type Err = Infallible;

    /// Whatever it is: who complains of a flag repeats what was given.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::from(text.to_owned()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, query) = match self.0.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (self.0.as_str(), None),
        };
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        write!(f, "{scheme}://")?;
        match user.split_once(':') {
            Some((name, _)) => write!(f, "{name}:***@")?,
            None if user.is_empty() => {}
            None => write!(f, "{user}@")?,
        }
        f.write_str(place)?;
        for (number, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            let is_secret = pair.split_once('=').is_some_and(|(key, _)| key == "password");
            let shown = if is_secret { "password=***" } else { pair };
            write!(f, "{}{shown}", if number == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Where the log is that several processes share, and how this one takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Where the database is.
    pub url: DatabaseUrl,
    /// Whether what is said to it is encrypted, and by whom it is believed to be it.
    pub security: Security,
    /// For how long this process owns the log, unless it renews that.
    pub lease: Duration,
    /// How other processes reach this one; as it listens, unless told.
    pub advertise: Option<String>,
    /// The authorities of those others' certificates; those of the system, unless told.
    pub cluster_ca: Option<PathBuf>,
}

/// How the database is believed to be the one that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// It is not asked, and nothing is encrypted.
    None,
    /// By its certificate, for the name of its host.
    Verified {
        /// The file with the authorities, as PEM; else they are those of the system.
        roots: Option<PathBuf>,
    },
}

impl DatabaseConfig {
    /// Of a command that is given nothing but the URL.
    ///
    /// # Errors
    /// [`ConfigError::DatabaseUrl`].
    pub fn of(url: DatabaseUrl) -> Result<Self, ConfigError> {
        let (_, security) = parse(&url)?;
        Ok(Self { url, security, lease: LEASE_DEFAULT, advertise: None, cluster_ca: None })
    }

    /// As [`tokio_postgres`] takes it. The URL was found to be right when it was resolved.
    ///
    /// # Errors
    /// [`ConfigError::DatabaseUrl`].
    pub fn parsed(&self) -> Result<tokio_postgres::Config, ConfigError> {
        Ok(parse(&self.url)?.0)
    }
}

/// What a URL says: our own parts of it beside the driver's.
fn parse(url: &DatabaseUrl) -> Result<(tokio_postgres::Config, Security), ConfigError> {
    let wrong = |what: &str| ConfigError::DatabaseUrl { what: what.to_owned() };
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.0.starts_with(scheme)) {
        return Err(wrong("expected a URL such as postgres://user@host/database"));
    }
    let (address, query) = url.0.split_once('?').unwrap_or((&url.0, ""));
    let (mut mode, mut roots, mut others) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) if value.contains('%') => {
                return Err(wrong("sslrootcert is the name of a file, without % in it"));
            }
            Some(("sslrootcert", value)) => roots = Some(PathBuf::from(value)),
            _ => others.push(pair),
        }
    }
    let plain = format!("{address}?{}", others.join("&"));
    let config: tokio_postgres::Config = plain.parse().map_err(|error| {
        // What the driver says names a key and never a value.
        let error: tokio_postgres::Error = error;
        wrong(&error.to_string())
    })?;
    if config.get_hosts().is_empty() {
        return Err(wrong("it names no host"));
    }
    if config.get_dbname().is_none() {
        return Err(wrong("it names no database"));
    }
    let is_local = config.get_hosts().iter().all(is_local);
    let security = match mode {
        None if is_local && roots.is_none() => Security::None,
        Some("disable") if roots.is_some() => {
            return Err(wrong("sslrootcert is of no use with sslmode=disable"));
        }
        Some("disable") => Security::None,
        None | Some("verify-full") => Security::Verified { roots },
        Some(_) => {
            return Err(wrong(
                "sslmode must be verify-full or disable: with the others anybody between could \
                 be the database",
            ));
        }
    };
    Ok((config, security))
}

/// Whether nobody else's machine is between.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
        }
    }
}

/// The settings of a database, if the engine needs one.
pub(super) fn database(given: &ServeArgs) -> Result<Option<DatabaseConfig>, ConfigError> {
    if given.engine.unwrap_or_default() == Engine::File {
        return Ok(None);
    }
    if given.ephemeral == Some(true) {
        return Err(ConfigError::Excludes("engine = \"postgres\"", "ephemeral = true"));
    }
    let Some(url) = given.database_url.clone() else {
        return Err(ConfigError::Needs("engine = \"postgres\"", "database_url"));
    };
    let (_, security) = parse(&url)?;
    let (lease, advertise) = (given.lease.unwrap_or(LEASE_DEFAULT), given.advertise.clone());
    if advertise.is_none() && given.listen.is_some_and(|listen| listen.ip().is_unspecified()) {
        return Err(ConfigError::Needs("listen on every address", "advertise"));
    }
    let cluster_ca = given.cluster_ca.clone();
    Ok(Some(DatabaseConfig { url, security, lease, advertise, cluster_ca }))
}

impl Config {
    /// What keeps the log.
    pub(super) fn tell_engine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(DatabaseConfig { url, security: _, lease, advertise, cluster_ca }) =
            &self.database
        else {
            return writeln!(f, "engine = \"file\"");
        };
        writeln!(f, "engine = \"postgres\"")?;
        writeln!(f, "database_url = {}", quoted(&url.to_string()))?;
        writeln!(f, "lease = \"{}ms\"", lease.as_millis())?;
        if let Some(advertise) = advertise {
            writeln!(f, "advertise = {}", quoted(advertise))?;
        }
        if let Some(cluster_ca) = cluster_ca {
            writeln!(f, "cluster_ca = {}", quoted_path(cluster_ca))?;
        }
        Ok(())
    }
}

/// The settings that are told only with a database.
#[cfg(test)]
pub(super) const KEYS: [&str; 5] = ["engine", "database_url", "lease", "advertise", "cluster_ca"];

#[cfg(test)]
mod tests {
    use super::{super::tests::parse as flags, *};
    use crate::ops::config::resolve;

    fn resolved(url: &str) -> Result<DatabaseConfig, String> {
        let config = resolve(flags(&["--engine=postgres", &format!("--database-url={url}")]));
        config.map(|config| config.database.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_engine_needs_a_database_and_no_memory() {
        let refused = |line: &[&str]| resolve(flags(line)).unwrap_err().to_string();
        assert_eq!(refused(&["--engine=postgres"]), "engine = \"postgres\" needs database_url");
        assert_eq!(
            refused(&["--engine=postgres", "--ephemeral", "--database-url=postgres://h/d"]),
            "engine = \"postgres\" cannot be together with ephemeral = true"
        );
        let everywhere = ["--engine=postgres", "--database-url=postgres://h/d", "--listen=[::]:1"];
        assert_eq!(refused(&everywhere), "listen on every address needs advertise");
        let unused = resolve(flags(&["--database-url=postgres://h/d"])).unwrap();
        assert_eq!(unused.database, None);
    }

    #[test]
    fn a_database_on_another_machine_has_to_prove_itself() {
        let verified = |roots: Option<&str>| Security::Verified { roots: roots.map(Into::into) };
        for (url, security) in [
            ("postgres://u@localhost/d", Security::None),
            ("postgres://u@127.0.0.1:5433/d", Security::None),
            ("postgres:///d?host=/run/postgresql", Security::None),
            ("postgresql://u@db.example/d?sslmode=disable", Security::None),
            ("postgres://u@db.example/d", verified(None)),
            ("postgres://u@localhost,db.example/d", verified(None)),
            ("postgres://u@localhost/d?sslmode=verify-full", verified(None)),
            ("postgres://u@localhost/d?sslrootcert=/etc/ca.pem", verified(Some("/etc/ca.pem"))),
            (
                "postgres://u@h/d?sslrootcert=ca.pem&sslmode=verify-full&connect_timeout=3",
                verified(Some("ca.pem")),
            ),
        ] {
            assert_eq!(resolved(url).unwrap().security, security, "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for (url, what) in [
            ("", "expected a URL such as postgres://user@host/database"),
            ("host=h password=geheim", "expected a URL such as postgres://user@host/database"),
            ("postgres://u:geheim@h", "it names no database"),
            ("postgres:///d?password=geheim", "it names no host"),
            ("postgres://u:geheim@h/d?sslmode=require", "sslmode must be verify-full or disable"),
            ("postgres://u:geheim@h/d?sslmode=prefer", "sslmode must be verify-full or disable"),
            ("postgres://u:geheim@h/d?sslmode=disable&sslrootcert=c", "sslrootcert is of no use"),
            ("postgres://u:geheim@h/d?sslrootcert=%2Fc", "sslrootcert is the name of a file"),
            ("postgres://u:geheim@h:port/d", "invalid connection string"),
            ("postgres://u:geheim@h/d?geheim=geheim", "invalid connection string"),
        ] {
            let error = resolved(url).unwrap_err();
            assert!(error.starts_with(&format!("database_url is not right: {what}")), "{error}");
            assert!(url.contains("?geheim") || !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://u:geheim@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:geh@im@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d?password=geheim&a=b", "postgres://u@h/d?password=***&a=b"),
            ("postgres://h/d", "postgres://h/d"),
            ("postgres:///d?host=/run", "postgres:///d?host=/run"),
            ("postgres://h/d?", "postgres://h/d?"),
            ("postgres://h/d?a=b&&password=&", "postgres://h/d?a=b&&password=***&"),
            ("postgres://h/d\r\n", "postgres://h/d"),
        ] {
            let url: DatabaseUrl = url.parse().unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.into(), shown.into()));
        }
    }
}
