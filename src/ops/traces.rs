//! Traces: one span for each call, for those who follow a request through many services.
//!
//! It owns how spans are made, sampled and sent: by OTLP over gRPC, in the background, from a
//! queue that is bounded; a collector that is not there loses spans and harms nothing. Everything
//! about it is set by the standard variables of OpenTelemetry, and without them there is nothing.
//! It must not know what a call is about.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::{
    Context, Key, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan},
};

use super::config::environment::{self, EnvironmentError, Traced};

mod collector;

pub use collector::CollectorError;

/// What the server is called in traces unless the environment says otherwise.
const SERVICE_NAME: &str = "daybook";
const SERVICE_NAME_KEY: Key = Key::from_static_str("service.name");
/// What the library calls a service that has no name.
const UNNAMED: &str = "unknown_service";
/// How long a stop waits for the last spans to be taken.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// How many attributes a span of ours has, at its end.
const ATTRIBUTES_MAX: usize = 6;
/// What a method is called that there is not.
const OTHER: &str = "_OTHER";

/// Why no traces can be sent, though the environment asks for them.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// It asks for what is not done here.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// What it says of TLS is not right.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// What it says of the collector is not right.
    #[error("traces cannot be sent as OTEL_EXPORTER_OTLP_... say: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Makes spans. Cheap to clone.
#[derive(Clone)]
pub struct Traces(Arc<Parts>);

struct Parts {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

/// What a request says of the trace that it belongs to, by the names of its headers.
pub struct Headers<'a>(pub &'a dyn Fn(&str) -> Option<&'a str>);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }

    /// The two that matter are asked for by name.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Traces {
    /// Begins to send traces if the environment asks for them. To be called on the runtime, which
    /// then carries the connection to the collector.
    ///
    /// # Errors
    /// [`TracesError`] when it asks for what cannot be.
    pub fn from_environment() -> Result<Option<Self>, TracesError> {
        let exporter = SpanExporter::builder().with_tonic();
        let exporter = match environment::traced()? {
            Traced::No => return Ok(None),
            Traced::Plain => exporter,
            Traced::Secured(secured) => exporter.with_tls_config(collector::tls(&secured)?),
        };
        Ok(Some(Self::new(exporter.build()?)))
    }

    fn new(exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static) -> Self {
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        let tracer = provider.tracer("daybook");
        let propagator = TraceContextPropagator::new();
        Self(Arc::new(Parts { provider, tracer, propagator }))
    }

    /// Begins the span of a call, as a part of the trace that its headers name. `method` is its
    /// service, a slash and its name; None for a method that there is not. `peer` is where it is
    /// from: an address and a port.
    #[must_use]
    pub fn begin(
        &self,
        method: Option<&'static str>,
        headers: &Headers<'_>,
        peer: Option<(&Arc<str>, u16)>,
    ) -> CallSpan {
        let parent = self.0.propagator.extract_with_context(&Context::new(), headers);
        let name = method.unwrap_or(OTHER);
        let mut attributes = Vec::with_capacity(ATTRIBUTES_MAX);
        attributes.push(KeyValue::new("rpc.system.name", "grpc"));
        attributes.push(KeyValue::new("rpc.method", name));
        if let Some((address, port)) = peer {
            attributes.push(KeyValue::new("network.peer.address", Arc::clone(address)));
            attributes.push(KeyValue::new("network.peer.port", i64::from(port)));
        }
        let span =
            SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
        CallSpan(self.0.tracer.build_with_context(span, &parent))
    }

    /// Sends what is left, as long as that takes little. Blocks; not to be called on the runtime,
    /// which carries the connection.
    pub fn stop(self) {
        if let Err(error) = self.0.provider.shutdown_with_timeout(SHUTDOWN_WITHIN) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().with_attribute(version.clone()).build();
    let named =
        found.get_ref(&SERVICE_NAME_KEY).is_some_and(|name| !name.as_str().starts_with(UNNAMED));
    if named {
        return found;
    }
    Resource::builder().with_attribute(version).with_service_name(SERVICE_NAME).build()
}

/// The span of a call, until it ends.
pub struct CallSpan(SdkSpan);

impl CallSpan {
    /// The trace that it is a part of, as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    /// Ends it. `code` is that of the call's status, in capitals.
    pub fn end(mut self, code: &'static str) {
        self.0.set_attribute(KeyValue::new("rpc.response.status_code", code));
        if is_error(code) {
            self.0.set_attribute(KeyValue::new("error.type", code));
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }
}

/// The codes that the conventions count as errors of a server.
fn is_error(code: &str) -> bool {
    matches!(
        code,
        "UNKNOWN"
            | "DEADLINE_EXCEEDED"
            | "UNIMPLEMENTED"
            | "INTERNAL"
            | "UNAVAILABLE"
            | "DATA_LOSS"
    )
}
