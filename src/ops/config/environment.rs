//! The standard variables of OpenTelemetry, as far as its library does not read them itself.
//!
//! Traces have no settings of ours: whoever runs a collector sets these for all that runs there.
//! Variables of our own are read with the command line; here it is only known which are empty.

use std::{ffi::OsStr, path::PathBuf};

/// Whether traces are to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// No collector is named, or they are switched off.
    No,
    /// To the collector that the variables name, by plain HTTP/2.
    Plain,
    /// To the collector that they name, by TLS.
    Secured(Secured),
}

/// How the collector and the server prove to each other who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The variable that names the collector.
    pub endpoint: &'static str,
    /// The authorities that its certificate may be of; those of the system if no file is named.
    pub roots: Option<NamedFile>,
    /// The certificate that the server shows, and its key.
    pub identity: Option<[NamedFile; 2]>,
}

/// A file that a variable names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The variable.
    pub name: &'static str,
    /// Where the file is.
    pub path: PathBuf,
}

/// Why nothing can be sent as the variables say.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// They ask for another protocol than gRPC.
    #[error("{name}: {value:?} is not spoken here: expected grpc")]
    Protocol {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// They name a certificate without its key, or a key without its certificate.
    #[error("{name} is of use with {missing} only")]
    Alone {
        /// The variable that is set.
        name: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
}

/// A variable for traces alone, which counts more, and the one for all that is sent.
type Names = [&'static str; 2];

const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const ENDPOINT: Names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const INSECURE: Names = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const PROTOCOL: Names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const ROOTS: Names = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CERTIFICATE: Names =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const KEY: Names = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];

/// Asks the environment of the process.
///
/// # Errors
/// [`EnvironmentError`] when it asks for what cannot be.
#[expect(clippy::disallowed_methods, reason = "these variables are not ours to turn into settings")]
pub fn traced() -> Result<Traced, EnvironmentError> {
    traced_by(|name| std::env::var(name).ok())
}

/// Whether a variable is set to nothing.
#[expect(clippy::disallowed_methods, reason = "the command line's parser does not ask this")]
pub(super) fn is_empty(name: &OsStr) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}

fn traced_by(get: impl Fn(&str) -> Option<String>) -> Result<Traced, EnvironmentError> {
    // A variable that is empty counts as one that is not set.
    let get = |name| get(name).filter(|value| !value.trim().is_empty());
    let first = |names: Names| names.into_iter().find_map(|name| Some((name, get(name)?)));
    let is_disabled = get(DISABLED).is_some_and(|value| is_true(value.trim()))
        || get(EXPORTER).is_some_and(|value| value.trim() == "none");
    let Some((endpoint, url)) = first(ENDPOINT).filter(|_| !is_disabled) else {
        return Ok(Traced::No);
    };
    if let Some((name, value)) = first(PROTOCOL).filter(|(_, value)| value.trim() != "grpc") {
        return Err(EnvironmentError::Protocol { name, value });
    }
    let is_insecure = first(INSECURE).is_some_and(|(_, value)| is_true(&value));
    if !is_secured(url.trim(), is_insecure) {
        return Ok(Traced::Plain);
    }
    let file = |names| first(names).map(|(name, path)| NamedFile { name, path: path.into() });
    let identity = match (file(CERTIFICATE), file(KEY)) {
        (Some(certificate), Some(key)) => Some([certificate, key]),
        (Some(NamedFile { name, .. }), None) => {
            return Err(EnvironmentError::Alone {
                name,
                missing: other_of(name, CERTIFICATE, KEY),
            });
        }
        (None, Some(NamedFile { name, .. })) => {
            return Err(EnvironmentError::Alone {
                name,
                missing: other_of(name, KEY, CERTIFICATE),
            });
        }
        (None, None) => None,
    };
    Ok(Traced::Secured(Secured { endpoint, roots: file(ROOTS), identity }))
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

/// As the library sees it, which takes what has no scheme for https unless told otherwise.
fn is_secured(url: &str, is_insecure: bool) -> bool {
    match url.split_once("://") {
        Some((scheme, _)) if !scheme.contains(['/', '?', '#']) => {
            scheme.eq_ignore_ascii_case("https")
        }
        Some(_) | None => !is_insecure,
    }
}

/// The name among `others` that goes with one of `names`.
fn other_of(name: &str, [own, _]: Names, [for_own, for_all]: Names) -> &'static str {
    if name == own { for_own } else { for_all }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
    const TLS: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4317");

    fn traced_with(set: &[(&str, &str)]) -> Result<Traced, String> {
        let get = |name: &str| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        traced_by(get).map_err(|error| error.to_string())
    }

    #[test]
    fn a_collector_switches_traces_on() {
        const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]:1");
        for (set, expected) in [
            (vec![], Traced::No),
            (vec![("OTEL_SERVICE_NAME", "ledger")], Traced::No),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")], Traced::No),
            (vec![ANY], Traced::Plain),
            (vec![TRACES], Traced::Plain),
            (vec![TRACES, TLS], Traced::Plain),
            (vec![ANY, ("OTEL_SDK_DISABLED", "true")], Traced::No),
            (vec![ANY, ("OTEL_SDK_DISABLED", "TRUE")], Traced::No),
            (vec![ANY, ("OTEL_SDK_DISABLED", "false")], Traced::Plain),
            (vec![ANY, ("OTEL_TRACES_EXPORTER", "none")], Traced::No),
            (vec![ANY, ("OTEL_TRACES_EXPORTER", "otlp")], Traced::Plain),
            (vec![ANY, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], Traced::Plain),
            (vec![TLS, ("OTEL_SDK_DISABLED", "true")], Traced::No),
            // Nothing of TLS is looked at without it.
            (vec![ANY, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem")], Traced::Plain),
        ] {
            assert_eq!(traced_with(&set), Ok(expected), "{set:?}");
        }
        assert_eq!(
            traced_with(&[ANY, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err(),
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/protobuf\" is not spoken here: expected grpc"
        );
    }

    #[test]
    fn https_is_secured_by_the_files_that_are_named() {
        let file = |name, path: &str| NamedFile { name, path: path.into() };
        let bare = Secured { endpoint: TLS.0, roots: None, identity: None };
        assert_eq!(traced_with(&[TLS]), Ok(Traced::Secured(bare.clone())));
        let roots = Some(file("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"));
        let of_all = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem");
        let with_roots = Secured { roots, ..bare.clone() };
        assert_eq!(traced_with(&[TLS, of_all]), Ok(Traced::Secured(with_roots)));
        let roots = Some(file("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "own.pem"));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "own.pem");
        let with_own = Secured { roots, ..bare.clone() };
        assert_eq!(traced_with(&[TLS, own, of_all]), Ok(Traced::Secured(with_own)));

        let shown = ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "till.pem");
        let key = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "till.key");
        let identity = Some([file(shown.0, shown.1), file(key.0, key.1)]);
        let mutual = Secured { identity, ..bare };
        assert_eq!(traced_with(&[TLS, shown, key]), Ok(Traced::Secured(mutual)));
        assert_eq!(
            traced_with(&[TLS, shown]).unwrap_err(),
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE is of use with \
             OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY only"
        );
        assert_eq!(
            traced_with(&[TLS, key]).unwrap_err(),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY is of use with \
             OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE only"
        );
    }

    #[test]
    fn what_has_no_scheme_is_taken_for_https() {
        for (url, is_insecure, expected) in [
            ("HTTPS://a:1", true, true),
            ("http://a:1", false, false),
            ("unix:///a", false, false),
            ("a:1", false, true),
            ("a:1", true, false),
            ("a:1/path://b", false, true),
            ("a:1/path://b", true, false),
        ] {
            assert_eq!(is_secured(url, is_insecure), expected, "{url}");
            let mut set = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url)];
            set.extend(is_insecure.then_some(("OTEL_EXPORTER_OTLP_INSECURE", "true")));
            assert_eq!(traced_with(&set).unwrap() != Traced::Plain, expected, "{url}");
        }
    }
}
