//! Exposition: figures as the text that scrapers read.
//!
//! It owns the formats, and that every family has a name, a kind and a help. It must not know what
//! the figures are of. Names are told in full, with their unit; only `_total` is added here, which
//! every counter has.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, prometheus_text, text},
    metrics::MetricType,
    registry::Registry,
};

use super::figures::Distribution;

const OPEN_METRICS: &str = "application/openmetrics-text";

/// A format that scrapers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// The text format of Prometheus, 0.0.4, which everybody reads.
    Prometheus,
    /// `OpenMetrics` 1.0.0, for those who ask for it.
    OpenMetrics,
}

impl Exposition {
    /// The format for whoever accepts this, by the `accept` of a request.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains(OPEN_METRICS) { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// How it is called.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The text of everything that `tell` puts on the page.
    #[must_use]
    pub fn page(
        self,
        tell: impl Fn(&mut Page<'_>) -> fmt::Result + Send + Sync + 'static,
    ) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Told(Box::new(tell))));
        let mut page = String::new();
        let written = match self {
            Self::Prometheus => prometheus_text::encode(&mut page, &registry),
            Self::OpenMetrics => text::encode(&mut page, &registry),
        };
        match written {
            Ok(()) => page,
            Err(fmt::Error) => unreachable!("a string takes whatever is written to it"),
        }
    }
}

/// What the values of a histogram are numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, shown as seconds.
    Nanoseconds,
    /// Things that can be counted.
    Count,
}

impl Unit {
    /// A value as it is shown. A duration is the way to a float that needs no cast.
    fn shown(self, value: u64) -> f64 {
        match self {
            Self::Nanoseconds => Duration::from_nanos(value),
            Self::Count => Duration::from_secs(value),
        }
        .as_secs_f64()
    }
}

type Tell = dyn Fn(&mut Page<'_>) -> fmt::Result + Send + Sync;

struct Told(Box<Tell>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Page(encoder))
    }
}

/// The page that figures are put on, one family after another.
#[derive(Debug)]
pub struct Page<'a>(DescriptorEncoder<'a>);

/// The names of some labels, or their values.
pub type Labels<'a, const N: usize> = [&'a str; N];

/// Names and values of labels as the encoder takes them.
fn labels<'a, const N: usize>(
    names: Labels<'a, N>,
    values: Labels<'a, N>,
) -> Vec<(&'a str, &'a str)> {
    names.into_iter().zip(values).collect()
}

/// All methods of a page fail only if the page cannot be written to.
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
impl Page<'_> {
    /// A count that only grows; its name without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<[(&str, &str); 0], u64, u64>(&count, None)
    }

    /// A count of time.
    pub fn seconds(&mut self, name: &str, help: &str, time: Duration) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<[(&str, &str); 0], f64, u64>(&time.as_secs_f64(), None)
    }

    /// Counts by labels.
    pub fn counters<'a, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        names: Labels<'a, N>,
        counts: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (values, count) in counts {
            let labels = labels(names, values);
            let mut member = family.encode_family(&labels)?;
            member.encode_counter::<[(&str, &str); 0], u64, u64>(&count, None)?;
        }
        Ok(())
    }

    /// What something is now.
    pub fn gauge(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        family.encode_gauge(value)
    }

    /// What something is now, by labels.
    pub fn gauges<'a, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        names: Labels<'a, N>,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            let labels = labels(names, of);
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Distributions, by labels.
    pub fn histograms<'a, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        unit: Unit,
        names: Labels<'a, N>,
        values: impl IntoIterator<Item = (Labels<'a, N>, Distribution)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (of, value) in values {
            let labels = labels(names, of);
            let bounds = value.bounds.iter().map(|bound| unit.shown(*bound));
            let bounds = bounds.chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(value.counts.iter().copied()).collect();
            let mut member = family.encode_family(&labels)?;
            let sum = unit.shown(value.sum);
            member.encode_histogram::<[(&str, &str); 0]>(sum, value.count(), &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::figures::Histogram, *};

    fn tell(page: &mut Page<'_>) -> fmt::Result {
        page.counter("groups", "Groups", 7)?;
        page.seconds("cpu_seconds", "Time", Duration::from_millis(1_500))?;
        page.gauge("position", "Position", &9_u64)?;
        page.counters(("refusals", "Refusals"), ["reason"], [(["A\"B"], 1), (["C"], 2)])?;
        page.gauges(("state", "State"), ["state"], [(["serving"], 1)])?;
        let histogram = Histogram::new(&[100_000, 250_000_000]);
        for nanos in [5, 100_000, 250_000_000, 250_000_001] {
            histogram.record(nanos);
        }
        let sync = [(["x"], histogram.get())];
        page.histograms(("sync_seconds", "Sync"), Unit::Nanoseconds, ["of"], sync)
    }

    #[test]
    fn a_page_is_written_in_the_format_of_prometheus() {
        insta::assert_snapshot!(Exposition::Prometheus.page(tell), @r#"
        # HELP groups_total Groups
        # TYPE groups_total counter
        groups_total 7
        # HELP cpu_seconds_total Time
        # TYPE cpu_seconds_total counter
        cpu_seconds_total 1.5
        # HELP position Position
        # TYPE position gauge
        position 9
        # HELP refusals_total Refusals
        # TYPE refusals_total counter
        refusals_total{reason="A\"B"} 1
        refusals_total{reason="C"} 2
        # HELP state State
        # TYPE state gauge
        state{state="serving"} 1
        # HELP sync_seconds Sync
        # TYPE sync_seconds histogram
        sync_seconds_bucket{of="x",le="0.0001"} 2
        sync_seconds_bucket{of="x",le="0.25"} 3
        sync_seconds_bucket{of="x",le="+Inf"} 4
        sync_seconds_sum{of="x"} 0.500100006
        sync_seconds_count{of="x"} 4
        "#);
    }

    #[test]
    fn a_page_is_written_as_open_metrics() {
        let page = Exposition::OpenMetrics.page(tell);
        assert!(page.contains("# TYPE groups counter\n"), "{page}");
        assert!(page.contains("groups_total 7\n"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        for (accept, expected) in [
            ("", Exposition::Prometheus),
            ("*/*", Exposition::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
                Exposition::OpenMetrics,
            ),
        ] {
            assert_eq!(Exposition::accepted(accept), expected, "{accept}");
        }
    }
}
