//! The logs of the process: lines on standard error.
//!
//! It owns how a line looks and which lines are written. It must not know what they say. Standard
//! output stays free for what a command prints as its result.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    str::FromStr,
};

use tracing::Subscriber;
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which lines are written: a level for all, levels for targets, or both.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

/// Nothing in it is unlike itself.
impl Eq for LogFilter {}

/// A directive is neither a level nor a target with a level. A misspelt level would otherwise count
/// as the name of a target, and silence everything else.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is neither a level (error, warn, info, debug, trace, off) nor a directive such as \
     daybook::log=debug"
)]
pub struct LogFilterError(String);

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        let wrong = text.split(',').find(|directive| !is_directive(directive));
        match (wrong, text.parse()) {
            (None, Ok(targets)) => Ok(Self { text: text.to_owned(), targets }),
            (wrong, _) => Err(LogFilterError(wrong.unwrap_or(text).to_owned())),
        }
    }
}

/// Modules of others that tell, from level debug on, what callers have given: names and amounts
/// among the parameters of statements.
const TALKATIVE: [&str; 2] = ["tokio_postgres", "tokio_postgres::query"];

impl LogFilter {
    /// The lines that it lets through, but never those that would tell what callers have given.
    fn lines(&self) -> Targets {
        self.targets.clone().with_targets(TALKATIVE.map(|module| (module, LevelFilter::INFO)))
    }
}

impl Default for LogFilter {
    /// What an operator acts on, and the milestones of a run.
    fn default() -> Self {
        Self { text: "info".to_owned(), targets: Targets::new().with_default(LevelFilter::INFO) }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Sends the log of the whole process to standard error.
///
/// The first call wins; a later one changes nothing.
pub fn init(format: LogFormat, filter: &LogFilter) {
    let terminal = io::stderr().is_terminal();
    let style = Style::new(format, terminal);
    if subscriber(style, filter, io::stderr).try_init().is_err() {
        tracing::debug!("the log of the process was set up before; it stays as it is");
    }
    panic::set_hook(Box::new(tell_panic));
}

/// Tells a panic as a line like any other, once. Who catches it says what becomes of it.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let formatted = payload.downcast_ref::<String>().map(String::as_str);
    let what = payload.downcast_ref::<&str>().copied().or(formatted).unwrap_or_default();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    tracing::error!(what, place, thread, "a defect: the code panicked");
}

/// How lines are written, once it is known where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Text that may be coloured; it is not where the environment sets `NO_COLOR`.
    ColouredText,
    /// Text as it is stored in a file.
    PlainText,
    /// One object a line.
    Json,
}

impl Style {
    fn new(format: LogFormat, terminal: bool) -> Self {
        match (format, terminal) {
            (LogFormat::Auto | LogFormat::Text, true) => Self::ColouredText,
            (LogFormat::Text, false) => Self::PlainText,
            (LogFormat::Auto, false) | (LogFormat::Json, _) => Self::Json,
        }
    }
}

/// A subscriber that writes each event as one line.
fn subscriber<W>(style: Style, filter: &LogFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Else a line that cannot be written is complained of where it could not be written, by a
    // panic: a server whose log nobody reads any more would end.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let lines = match style {
        Style::ColouredText => lines.boxed(),
        Style::PlainText => lines.with_ansi(false).boxed(),
        // The message and the fields side by side: a query need not know which is which.
        Style::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    Box::new(tracing_subscriber::registry().with(lines.with_filter(filter.lines())))
}

fn is_directive(text: &str) -> bool {
    let (target, level) = text.split_once('=').unwrap_or(("", text));
    // An empty text would parse as a level, a blank would be a part of a name, and nothing here
    // opens spans to choose from.
    let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
    is_level && !target.contains(|it: char| it.is_whitespace() || "[]{}".contains(it))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged, kept to be looked at.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(style: Style, filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(style, &filter.parse().unwrap(), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(position = 7, "the log is open");
            tracing::debug!("too fine");
        });
        lines.text()
    }

    #[test]
    fn json_lines_hold_level_message_and_fields() {
        let text = written(Style::Json, "info");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "the log is open");
        assert_eq!(line["position"], 7);
    }

    #[test]
    fn plain_text_has_no_colours() {
        let text = written(Style::PlainText, "info");
        assert!(text.ends_with("the log is open position=7\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        assert_eq!(written(Style::PlainText, "debug").lines().count(), 2);
        assert_eq!(written(Style::PlainText, "off"), "");
        assert_eq!(written(Style::PlainText, "off,somebody_else=trace"), "");
    }

    #[test]
    fn what_callers_give_is_not_told_by_others() {
        for filter in ["trace", "tokio_postgres=trace", "trace,tokio_postgres::query=debug"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let filter = filter.parse().unwrap();
            let subscriber = subscriber(Style::PlainText, &filter, move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!(target: "tokio_postgres::query", "parameters: [Ada]");
                tracing::info!(target: "tokio_postgres::query", "a notice");
            });
            assert_eq!(lines.text().lines().count(), 1, "{filter}: {}", lines.text());
        }
    }

    #[test]
    fn auto_means_text_on_a_terminal_and_json_elsewhere() {
        let cases = [
            (LogFormat::Auto, true, Style::ColouredText),
            (LogFormat::Auto, false, Style::Json),
            (LogFormat::Text, true, Style::ColouredText),
            (LogFormat::Text, false, Style::PlainText),
            (LogFormat::Json, true, Style::Json),
            (LogFormat::Json, false, Style::Json),
        ];
        for (format, terminal, style) in cases {
            assert_eq!(Style::new(format, terminal), style, "{format:?}, terminal: {terminal}");
        }
    }

    #[test]
    fn misspelt_filters_are_refused() {
        for good in ["info", "WARN", "off", "daybook=debug", "warn,daybook::log=trace"] {
            assert_eq!(good.parse::<LogFilter>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "inof",
            "info,",
            "warn,daybook",
            "daybook=loud",
            "info,,warn",
            "daybook=",
            "a[b]",
            "a[b]=info",
            "a=b=info",
            "info ",
            "warn, daybook=debug",
            " ",
            "a =info",
        ] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "inof".parse::<LogFilter>().unwrap_err().to_string(),
            "'inof' is neither a level (error, warn, info, debug, trace, off) nor a directive \
             such as daybook::log=debug"
        );
    }

    #[test]
    fn setting_up_twice_does_no_harm() {
        // Off, so that the log of the other tests of this process stays unwritten.
        let silence = "off".parse().unwrap();
        init(LogFormat::Auto, &silence);
        init(LogFormat::Json, &silence);
    }
}
