//! The report: what was measured, for people and for programs.

use std::io;

use serde_json::{Value, json};

use super::{
    BenchArgs, Costs,
    measure::{Measure, Times},
    server::Usage,
};
use crate::cli::output;

/// The quantiles that are told.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Those that are told of what is rare.
const FEW_QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];

/// What was measured.
pub(super) struct Report<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) measure: &'a Measure,
    pub(super) costs: Costs,
}

impl Report<'_> {
    /// Accepted commands a second.
    fn rate(&self) -> u64 {
        let accepted = self.measure.measured.accepted.saturating_mul(1_000);
        accepted.checked_div(self.costs.millis).unwrap_or(0)
    }

    /// What the server used in the whole run: CPU time in milliseconds, and for each command in
    /// nanoseconds.
    fn cpu(&self) -> Option<(u64, u64)> {
        let (before, after) = self.costs.server?;
        let cpu_millis = after.cpu_millis.saturating_sub(before.cpu_millis);
        let nanos = cpu_millis.saturating_mul(1_000_000);
        Some((cpu_millis, nanos.checked_div(self.measure.all.accepted).unwrap_or(0)))
    }

    /// By how many bytes the log grew for each accepted command. What was refused is in it too, as
    /// far as it was recorded.
    fn log_bytes_per_command(&self) -> Option<u64> {
        let log_bytes = u64::try_from(self.costs.log_bytes?).ok()?;
        log_bytes.checked_div(self.measure.all.accepted)
    }

    /// By how many bytes the server's memory grew for each account that was opened.
    fn bytes_per_account(&self) -> Option<u64> {
        let (fresh, opened) = self.costs.opening?;
        let kib = opened.resident_kib.saturating_sub(fresh.resident_kib);
        kib.saturating_mul(1_024).checked_div(self.args.accounts)
    }

    pub(super) fn print(&self) -> io::Result<()> {
        output::print(|out| {
            if self.args.json { writeln!(out, "{}", self.json()) } else { self.text(out) }
        })
    }

    fn text(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let (args, measure) = (self.args, self.measure);
        let unit = if args.stream { "messages" } else { "calls" };
        writeln!(
            out,
            "workload     {:?}, {} accounts with {} earlier deposits each",
            args.workload, args.accounts, args.history
        )?;
        writeln!(
            out,
            "load         {} {unit} of {} commands in flight on {} connections, {} ms",
            args.in_flight(),
            args.batch,
            args.connections,
            self.costs.millis
        )?;
        if args.rate > 0 {
            writeln!(out, "rate         {} calls/s asked for, open loop", args.rate)?;
        }
        writeln!(out, "accepted     {} commands", measure.measured.accepted)?;
        writeln!(out, "refused      {} commands by a rule", measure.measured.refused)?;
        let shed = measure.shed.count();
        writeln!(
            out,
            "shed         {shed} calls for overload, or because the disk is full{}",
            after(&measure.shed, &FEW_QUANTILES)
        )?;
        writeln!(out, "unknown      {} calls", measure.unknown_calls)?;
        writeln!(out, "throughput   {} commands/s", self.rate())?;
        writeln!(out, "latency      {}", told(&measure.latency, &QUANTILES))?;
        if let (Some((_, after)), Some((cpu_millis, nanos))) = (self.costs.server, self.cpu()) {
            let Usage { resident_kib, peak_kib, .. } = after;
            writeln!(out, "server       {cpu_millis} ms CPU, {nanos} ns a command")?;
            writeln!(out, "memory       {resident_kib} KiB, at most {peak_kib} KiB")?;
        }
        if let (Some((fresh, opened)), Some(bytes)) = (self.costs.opening, self.bytes_per_account())
        {
            let (before, with) = (fresh.resident_kib, opened.resident_kib);
            writeln!(
                out,
                "accounts     {before} KiB before, {with} KiB after: {bytes} bytes each"
            )?;
        }
        if let (Some(bytes), Some(each)) = (self.costs.log_bytes, self.log_bytes_per_command()) {
            writeln!(out, "log          {bytes} bytes, {each} a command")?;
        }
        if let Some(deliveries) = &measure.deliveries {
            let (tails, events) = (args.tails, self.costs.told_events);
            writeln!(out, "tails        {tails}, told {events} events together, without gaps")?;
            let (count, untimed) = (deliveries.times.count(), deliveries.untimed);
            let times = after(&deliveries.times, &QUANTILES);
            writeln!(out, "delivery     {count} answers told{times}; {untimed} not timed")?;
        }
        let money = if args.unchecked { "not checked" } else { "adds up" };
        writeln!(out, "money        {money}")
    }

    fn json(&self) -> Value {
        let (args, measure) = (self.args, self.measure);
        let deliveries = measure.deliveries.as_ref();
        json!({
            "workload": format!("{:?}", args.workload),
            "accounts": args.accounts,
            "history": args.history,
            "in_flight": args.in_flight(),
            "connections": args.connections,
            "batch": args.batch,
            "stream": args.stream,
            "rate": args.rate,
            "measured_ms": self.costs.millis,
            "accepted": measure.measured.accepted,
            "refused": measure.measured.refused,
            "shed_calls": measure.shed.count(),
            "shed_micros": table(&measure.shed, &FEW_QUANTILES),
            "unknown_calls": measure.unknown_calls,
            "commands_per_second": self.rate(),
            "latency_micros": table(&measure.latency, &QUANTILES),
            "tails": args.tails,
            "told_events": self.costs.told_events,
            "delivered": deliveries.map(|deliveries| deliveries.times.count()),
            "delivery_untimed": deliveries.map(|deliveries| deliveries.untimed),
            "delivery_micros": deliveries.map(|deliveries| table(&deliveries.times, &QUANTILES)),
            "log_bytes": self.costs.log_bytes,
            "log_bytes_per_command": self.log_bytes_per_command(),
            "checked": !args.unchecked,
            "server_fresh_kib": self.costs.opening.map(|(fresh, _)| fresh.resident_kib),
            "server_opened_kib": self.costs.opening.map(|(_, opened)| opened.resident_kib),
            "server_bytes_per_account": self.bytes_per_account(),
            "server_cpu_ms": self.cpu().map(|(cpu_millis, _)| cpu_millis),
            "server_cpu_ns_per_command": self.cpu().map(|(_, nanos)| nanos),
            "server_resident_kib": self.costs.server.map(|(_, after)| after.resident_kib),
            "server_peak_kib": self.costs.server.map(|(_, after)| after.peak_kib),
        })
    }
}

/// Times, for people.
fn told(times: &Times, quantiles: &[(&str, f64)]) -> String {
    let told =
        quantiles.iter().map(|(name, quantile)| format!("{name} {} µs", times.micros(*quantile)));
    told.collect::<Vec<_>>().join(", ")
}

/// What follows a count of things that took some time.
fn after(times: &Times, quantiles: &[(&str, f64)]) -> String {
    if times.count() == 0 {
        return String::new();
    }
    format!(", after {}", told(times, quantiles))
}

/// Times, for programs: nothing when there are none.
fn table(times: &Times, quantiles: &[(&str, f64)]) -> Value {
    if times.count() == 0 {
        return Value::Null;
    }
    let table = quantiles.iter().map(|(name, quantile)| (*name, times.micros(*quantile)));
    table.map(|(name, micros)| (name.to_owned(), json!(micros))).collect()
}
