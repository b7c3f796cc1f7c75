//! Reads the source tree and holds the rules that the compiler and clippy cannot.
//!
//! A rule looks at one file and names the lines that break it. All findings of all rules are told
//! at once, as `file:line: what`. Rules about code see neither comments nor the insides of
//! literals. The samples at the end show that each rule can fail.

use std::{fs, path::Path};

use self::text::{blanked, names, paths};

mod text;

const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;

/// The rooms, and what each may use of the others. A room may always use itself.
const LAW: [(&str, &[&str]); 10] = [
    ("domain", &[]),
    // The disk, and their settings, are those of its tests.
    ("log", &["sim::disk", "sim::number"]),
    ("ops", &[]),
    // The clock, and figures that count by themselves and know nothing of who shows them.
    (
        "event_store",
        &["domain", "log", "ops::Clock", "ops::Gauge", "ops::Histogram", "ops::ManualClock"],
    ),
    // What it writes for people to read are entries.
    ("postgres", &["domain", "event_store", "log"]),
    ("views", &["domain", "event_store", "log"]),
    // The code that is generated from the protos.
    ("proto", &[]),
    // Of the protocol only its own test knows, which looks for methods without a policy.
    ("access", &["domain", "ops", "proto::FILE_DESCRIPTOR_SET"]),
    ("wire", &["access", "domain", "event_store", "log", "ops", "proto", "views"]),
    // A client for most of its commands; it opens and folds a log itself to verify or move it,
    // that of a database as well. What flags name is checked by the rules that the server has for
    // it.
    (
        "cli",
        &[
            "access",
            "domain::AccountId",
            "domain::IdError",
            "domain::Principal",
            "domain::TextError",
            "event_store",
            "log",
            "postgres",
            "proto",
            "views",
        ],
    ),
];

/// The modules that join the rooms: they may use all of them.
const JOINERS: [&str; 3] = ["lib", "main", "server"];

/// What must be absent: names that may not appear in the code of some rooms, and why.
const ABSENT: [(&[&str], &[&str], &str); 6] = [
    (
        &["domain"],
        &[
            "async",
            "await",
            "rand",
            "std::env",
            "std::fs",
            "std::io",
            "std::net",
            "std::process",
            "std::thread",
            "std::time",
            "tokio",
            "tracing",
            "Uuid::now_v7",
        ],
        "the domain is pure: time and ids come in with the command",
    ),
    (&["domain", "event_store", "log", "views"], &["f32", "f64"], "money is never a float"),
    (
        &["domain", "event_store", "log", "views"],
        &["clap", "prost", "tonic"],
        "only the outer rooms speak to the outside",
    ),
    (
        &["cli", "domain", "lib", "main", "server", "wire"],
        &["SystemTime::now"],
        "time is passed in: see ops::Clock",
    ),
    (
        &["event_store", "log", "views"],
        &["SystemTime", "Uuid::new_v4", "Uuid::now_v7", "getrandom", "rand", "std::env"],
        "a simulation of it is the same each time",
    ),
    // The event store counts how long its syncs take.
    (&["log", "views"], &["Instant"], "a simulation of it is the same each time"),
];

/// A file of the tree.
struct Source {
    /// Its path from the root of the project.
    path: String,
    text: String,
    /// For Rust, the text without comments and the insides of literals, line for line.
    code: Option<String>,
}

/// A line that breaks a rule, and how.
type Finding = (usize, String);

/// All rules, in the order in which their findings are told.
const RULES: [fn(&Source) -> Vec<Finding>; 7] = [
    is_short,
    opens_with_its_purpose,
    leaves_nothing_for_later,
    runs_every_test,
    keeps_the_law,
    lacks_what_must_be_absent,
    gives_reasons_for_dependencies,
];

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code =
            Path::new(path).extension().is_some_and(|ext| ext == "rs").then(|| blanked(text));
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// The name of the top-level module under `src` that the file belongs to.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split('/').next()?.split('.').next()
    }

    /// How many modules deep the file is, counted from the root of the crate.
    fn depth(&self) -> usize {
        let is_parent = self.path.ends_with("/mod.rs");
        self.path.matches('/').count() - usize::from(is_parent)
    }

    fn findings(&self) -> Vec<String> {
        let findings = RULES.iter().flat_map(|rule| rule(self));
        findings.map(|(line, what)| format!("{}:{line}: {what}", self.path)).collect()
    }
}

fn is_short(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            findings.push((index + 1, format!("{columns} columns, {COLUMNS_MAX} at most")));
        }
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push((lines, format!("{lines} lines, {LINES_MAX} at most")));
    }
    findings
}

fn opens_with_its_purpose(source: &Source) -> Vec<Finding> {
    if source.code.is_none() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![(1, "the file does not begin with a //! that says what it owns".to_owned())]
}

fn leaves_nothing_for_later(source: &Source) -> Vec<Finding> {
    // Written in two parts, so that this file may be searched like any other.
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let in_text = notes.into_iter().flat_map(|note| lines_with_word(&source.text, note));
    let code = source.code.as_deref().unwrap_or_default();
    let in_code = ["dbg!", "todo!"].into_iter().flat_map(|name| lines_with_word(code, name));
    in_text.chain(in_code).map(|(line, word)| (line, format!("{word} is left"))).collect()
}

fn runs_every_test(source: &Source) -> Vec<Finding> {
    let code = source.code.as_deref().unwrap_or_default();
    ["#[ignore", "#[should_panic"]
        .into_iter()
        .flat_map(|attribute| lines_with_word(code, attribute))
        .map(|(line, attribute)| (line, format!("a test bears {attribute}]")))
        .collect()
}

fn keeps_the_law(source: &Source) -> Vec<Finding> {
    let (Some(room), Some(code)) = (source.room(), &source.code) else { return Vec::new() };
    if JOINERS.contains(&room) {
        return Vec::new();
    }
    let Some((_, may_use)) = LAW.iter().find(|(name, _)| *name == room) else {
        return vec![(1, format!("the room {room} is not in the law"))];
    };
    paths(code)
        .into_iter()
        .filter_map(|(line, path)| Some((line, path_from_root(&path, source.depth())?)))
        .filter(|(_, path)| !begins_with(path, room))
        .filter(|(_, path)| !may_use.iter().any(|allowed| begins_with(path, allowed)))
        .map(|(line, path)| (line, format!("{room} must not use {path}")))
        .collect()
}

/// What a path names, seen from the root of the crate; `None` when it stays in its room or names
/// another crate.
fn path_from_root(path: &str, depth: usize) -> Option<String> {
    if let Some(inside) = path.strip_prefix("crate::") {
        return Some(inside.to_owned());
    }
    let mut rest = path.strip_prefix("self::").unwrap_or(path);
    let mut ups = 0;
    while let Some(after) = rest.strip_prefix("super::") {
        rest = after;
        ups += 1;
    }
    // A module inside the file may need one more step, so that reaching the root is not certain:
    // what then has the name of a room counts as that room.
    let names_a_room = LAW.iter().any(|(room, _)| begins_with(rest, room));
    (ups >= depth && ups > 0 && names_a_room).then(|| rest.to_owned())
}

fn begins_with(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn lacks_what_must_be_absent(source: &Source) -> Vec<Finding> {
    let (Some(room), Some(code)) = (source.room(), &source.code) else { return Vec::new() };
    let paths = paths(code);
    let mut findings = Vec::new();
    for (_, absent, why) in ABSENT.iter().filter(|(rooms, ..)| rooms.contains(&room)) {
        for (line, path) in &paths {
            for name in absent.iter().filter(|name| names(path, name)) {
                findings.push((*line, format!("{name} in {room}: {why}")));
            }
        }
    }
    findings
}

fn gives_reasons_for_dependencies(source: &Source) -> Vec<Finding> {
    if Path::new(&source.path).file_name().is_none_or(|name| name != "Cargo.toml") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let (mut inside, mut before) = (false, "");
    for (index, line) in source.text.lines().enumerate() {
        let told = line.contains('#') || before.starts_with('#');
        if let Some(table) = line.strip_prefix('[') {
            let table = table.split(']').next().unwrap_or_default();
            inside = table.ends_with("dependencies");
            if table.contains("dependencies.") && !told {
                findings.push((index + 1, format!("{table} has no reason")));
            }
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let is_entry = line.starts_with(|c: char| c.is_ascii_alphanumeric());
        if inside && is_entry && line.contains('=') && !told {
            findings.push((index + 1, format!("the dependency {name} has no reason")));
        }
        before = line;
    }
    findings
}

/// The numbers of the lines that have `word` with no letter or digit around it.
fn lines_with_word<'a>(text: &str, word: &'a str) -> Vec<(usize, &'a str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |line: &str, start: usize| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let open = |c: Option<char>| !c.is_some_and(is_part);
        (open(before) || !word.starts_with(is_part)) && (open(after) || word.ends_with('!'))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.match_indices(word).any(|(start, _)| stands_alone(line, start)))
        .map(|(index, _)| (index + 1, word))
        .collect()
}

/// Every file that was written by hand, in a stable order.
fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let tops = [
        ".ci",
        "Cargo.toml",
        "benches",
        "build.rs",
        "deploy",
        "examples",
        "fuzz/Cargo.toml",
        "fuzz/fuzz_targets",
        "fuzz/run",
        "fuzz/src",
        "proto/daybook",
        "src",
        "tests",
    ];
    for top in tops {
        gather(root, top, &mut sources);
    }
    sources
}

fn gather(root: &Path, path: &str, sources: &mut Vec<Source>) {
    const WRITTEN: [&str; 11] =
        ["conf", "js", "mjs", "proto", "py", "rs", "service", "sh", "toml", "ts", "yaml"];
    let full = root.join(path);
    if full.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "node_modules" && name != "target")
            .collect();
        names.sort();
        for name in names {
            gather(root, &format!("{path}/{name}"), sources);
        }
    } else if full.extension().is_none_or(|ext| WRITTEN.iter().any(|written| ext == *written)) {
        let bytes = fs::read(&full).unwrap_or_else(|error| panic!("{path}: {error}"));
        sources.push(Source::new(path, &String::from_utf8_lossy(&bytes)));
    }
}

/// Intent: the tree keeps every rule.
#[test]
fn the_tree_is_tidy() {
    let sources = tree();
    let rust = sources.iter().filter(|source| source.code.is_some()).count();
    assert!(rust > 10, "only {rust} Rust files were found: is the tree elsewhere?");
    let findings: Vec<_> = sources.iter().flat_map(Source::findings).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Intent: no rule holds only because it cannot fail. Each sample breaks one rule once.
#[test]
fn each_rule_can_fail() {
    let long_line = format!("//! {}", "x".repeat(97));
    let long_file = "//! A.\n".repeat(501);
    let note = format!("//! A.\n// {}: later", concat!("TO", "DO"));
    let samples = [
        ("src/wire/a.rs", long_line.as_str(), "1: 101 columns, 100 at most"),
        ("tests/walkthrough/run", &long_line, "1: 101 columns, 100 at most"),
        ("src/wire/a.rs", &long_file, "501: 501 lines, 500 at most"),
        ("src/wire/a.rs", "use std::fs;", "1: the file does not begin with a //! that says what"),
        ("proto/daybook/v1/a.proto", &note, concat!("2: TO", "DO is left")),
        ("src/wire/a.rs", "//! A.\nfn f() { dbg!(1); }", "2: dbg! is left"),
        ("tests/it/a.rs", "//! A.\nfn f() { todo!() }", "2: todo! is left"),
        ("tests/it/a.rs", "//! A.\n#[ignore = \"b\"]", "2: a test bears #[ignore]"),
        ("src/log/a.rs", "//! A.\n#[should_panic]", "2: a test bears #[should_panic]"),
        ("src/cellar/a.rs", "//! A.", "1: the room cellar is not in the law"),
        ("src/domain/a.rs", "//! A.\nuse std::{fmt, fs};", "2: std::fs in domain: the domain is"),
        ("src/domain/a.rs", "//! A.\n\nasync fn f() {}", "3: async in domain: the domain is"),
        ("src/domain.rs", "//! A.\nuse tokio::time;", "2: tokio in domain: the domain is"),
        ("src/views/a.rs", "//! A.\nconst A: f64 = 0;", "2: f64 in views: money is never"),
        ("src/log/a.rs", "//! A.\nlet a = 1f32;", "2: f32 in log: money is never"),
        ("src/event_store/a.rs", "//! A.\nuse tonic::Status;", "2: tonic in event_store: only"),
        ("src/server.rs", "//! A.\nSystemTime::now();", "2: SystemTime::now in server: time is"),
        ("src/log/a.rs", "//! A.\nSystemTime::now();", "2: SystemTime in log: a simulation of"),
        ("src/log/a.rs", "//! A.\nuse std::time::Instant;", "2: Instant in log: a simulation of"),
        ("src/views/a.rs", "//! A.\nUuid::now_v7();", "2: Uuid::now_v7 in views: a simulation"),
        ("Cargo.toml", "[dependencies]\na = \"1\"", "2: the dependency a has no reason"),
        ("Cargo.toml", "[target.'cfg(unix)'.dev-dependencies]\n\na.path = 'b'", "3: the dep"),
        ("fuzz/Cargo.toml", "[dependencies]\na = \"1\"", "2: the dependency a has no reason"),
        ("Cargo.toml", "[dependencies.a]\nversion = '1'", "1: dependencies.a has no reason"),
    ];
    for (path, text, expected) in samples {
        let findings = Source::new(path, text).findings();
        let [finding] = findings.as_slice() else { panic!("{path}: {text}\n{findings:?}") };
        assert!(finding.starts_with(&format!("{path}:{expected}")), "{finding}");
    }
}

/// Intent: a room reaches another one by no kind of path that the law does not allow.
#[test]
fn the_law_sees_every_path_between_rooms() {
    for (path, code, forbidden) in [
        ("src/domain/a.rs", "use crate::log::Head;", "domain must not use log::Head"),
        ("src/domain/mod.rs", "use super::log;", "domain must not use log"),
        ("src/domain/a.rs", "use super::super::{log::Head};", "domain must not use log::Head"),
        ("src/log/file/a.rs", "use super::super::super::ops;", "log must not use ops"),
        ("src/log/a.rs", "use crate::{log::B, domain};", "log must not use domain"),
        ("src/log/a.rs", "fn f(a: &crate::domain::A) {}", "log must not use domain::A"),
        ("src/ops/a.rs", "use crate::*;", "ops must not use *"),
        ("src/event_store/a.rs", "use crate::ops::{Clock, config};", "use ops::config"),
        ("src/views/a.rs", "use crate::wire::a;", "views must not use wire::a"),
        ("src/wire/a.rs", "use crate::cli::a;", "wire must not use cli::a"),
        ("src/cli/a.rs", "use crate::domain::a;", "cli must not use domain::a"),
    ] {
        let findings = Source::new(path, &format!("//! A.\n{code}")).findings();
        let [finding] = findings.as_slice() else { panic!("{path}: {code}\n{findings:?}") };
        assert!(finding.starts_with(&format!("{path}:2: ")), "{finding}");
        assert!(finding.ends_with(forbidden), "{finding}");
    }
}

/// Intent: what is right is not found fault with.
#[test]
fn tidy_samples_pass() {
    for (path, text) in [
        ("src/domain/a.rs", "//! A.\nuse std::fmt;\nuse super::money::Money;"),
        ("src/domain/a.rs", "//! A.\n// std::fs, f64 and tokio are absent.\nlet a = \"f64\";"),
        ("src/domain/a.rs", "//! A.\nlet a = 0xf64;"),
        ("src/log/file/a.rs", "//! A.\nuse super::super::memory;\npub(crate) fn f() {}"),
        ("src/log/a.rs", "//! A.\nmod tests { use super::super::Log; }"),
        ("src/event_store/a.rs", "//! A.\nuse crate::{domain::A, log, ops::Clock};"),
        ("src/views/a.rs", "//! A.\nuse crate::event_store::a;"),
        ("src/wire/a.rs", "//! A.\nlet todo = 1.5; my_dbg!();"),
        ("src/server.rs", "//! A.\nuse crate::{domain, log, wire};"),
        ("src/ops/clock.rs", "//! A.\nSystemTime::now();"),
        ("Cargo.toml", "[dependencies]\na = \"1\" # b\n# c\nd = \"1\"\n[profile.dev]\ne = 1"),
        ("Cargo.toml", "[dependencies]\na = { features = [ # b\n    \"c=d\",\n] }"),
    ] {
        assert_eq!(Source::new(path, text).findings(), Vec::<String>::new(), "{path}: {text}");
    }
}
