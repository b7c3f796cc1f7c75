//! The standard variables of OpenTelemetry, as far as its library does not read them itself.
//!
//! Traces have no settings of ours: whoever runs a collector sets these for all that runs there.

/// Whether traces are to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// No collector is named, or they are switched off.
    No,
    /// To the collector that the variables name.
    Yes,
}

/// Why nothing can be sent as the variables say.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {value:?} is not spoken here: expected grpc")]
pub struct UnknownProtocol {
    name: &'static str,
    value: String,
}

const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Asks the environment of the process.
///
/// # Errors
/// [`UnknownProtocol`] when it asks for another protocol than gRPC.
#[expect(clippy::disallowed_methods, reason = "these variables are not ours to turn into settings")]
pub fn traced() -> Result<Traced, UnknownProtocol> {
    traced_by(|name| std::env::var(name).ok())
}

fn traced_by(get: impl Fn(&str) -> Option<String>) -> Result<Traced, UnknownProtocol> {
    // A variable that is empty counts as one that is not set.
    let get = |name| get(name).filter(|value| !value.trim().is_empty());
    let is_disabled = get(DISABLED).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
        || get(EXPORTER).is_some_and(|value| value.trim() == "none");
    if is_disabled || ENDPOINTS.into_iter().all(|name| get(name).is_none()) {
        return Ok(Traced::No);
    }
    match PROTOCOLS.into_iter().find_map(|name| Some((name, get(name)?))) {
        Some((name, value)) if value.trim() != "grpc" => Err(UnknownProtocol { name, value }),
        Some(_) | None => Ok(Traced::Yes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced_with(set: &[(&str, &str)]) -> Result<Traced, String> {
        let get = |name: &str| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        traced_by(get).map_err(|error| error.to_string())
    }

    #[test]
    fn a_collector_switches_traces_on() {
        const ANY: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]:1");
        for (set, expected) in [
            (vec![], Traced::No),
            (vec![("OTEL_SERVICE_NAME", "ledger")], Traced::No),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")], Traced::No),
            (vec![ANY], Traced::Yes),
            (vec![TRACES], Traced::Yes),
            (vec![ANY, ("OTEL_SDK_DISABLED", "true")], Traced::No),
            (vec![ANY, ("OTEL_SDK_DISABLED", "TRUE")], Traced::No),
            (vec![ANY, ("OTEL_SDK_DISABLED", "false")], Traced::Yes),
            (vec![ANY, ("OTEL_TRACES_EXPORTER", "none")], Traced::No),
            (vec![ANY, ("OTEL_TRACES_EXPORTER", "otlp")], Traced::Yes),
            (vec![ANY, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], Traced::Yes),
        ] {
            assert_eq!(traced_with(&set), Ok(expected), "{set:?}");
        }
        assert_eq!(
            traced_with(&[ANY, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err(),
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/protobuf\" is not spoken here: expected grpc"
        );
    }
}
