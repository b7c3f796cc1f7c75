//! What the rules need to know of Rust's text: where code is, and which paths it names.
//!
//! It is no parser: it knows comments, literals, and paths with their groups, and must stay
//! small enough to be read at once.

/// The text with comments and the insides of literals blanked, line for line.
pub(super) fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = blank_bytes(rest, code.chars().next_back());
        if skipped > 0 {
            let (blank, after) = rest.split_at(skipped);
            code.extend(blank.chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = after;
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    code
}

/// How many bytes a comment or literal at the start of `rest` takes; 0 when there is none.
fn blank_bytes(rest: &str, before: Option<char>) -> usize {
    let to_end = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return to_end(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return block_comment_bytes(rest);
    }
    if rest.starts_with('"') {
        return to_end(end_of_quoted(rest, '"'));
    }
    // A quote begins a character, unless it begins a lifetime: only one has a second quote soon.
    if let Some(inside) = rest.strip_prefix('\'') {
        let after_first = inside.chars().nth(1);
        let is_character = inside.starts_with('\\') || after_first == Some('\'');
        return if is_character { to_end(end_of_quoted(rest, '\'')) } else { 0 };
    }
    let ends_a_name = before.is_some_and(|c| c != 'b' && (c.is_alphanumeric() || c == '_'));
    if ends_a_name { 0 } else { raw_string_bytes(rest) }
}

fn raw_string_bytes(rest: &str) -> usize {
    let Some(after_r) = rest.strip_prefix('r') else { return 0 };
    let Some(inside) = after_r.trim_start_matches('#').strip_prefix('"') else { return 0 };
    let opening = rest.len() - inside.len();
    let closing = format!("\"{}", "#".repeat(opening - 2));
    inside.find(&closing).map_or(rest.len(), |end| opening + end + closing.len())
}

fn end_of_quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(index + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

fn block_comment_bytes(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Every path in the code with the line where it ends: `use a::{b, c::d}` gives `a::b` and
/// `a::c::d`, and a single name is a path as well. A float's suffix counts as its type's name.
pub(super) fn paths(code: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let before = at;
        read_path(&tokens, &mut at, "", &mut found);
        if at == before {
            at += 1;
        }
    }
    found
}

/// Whether the segments of `name` stand side by side in `path`.
pub(super) fn names(path: &str, name: &str) -> bool {
    format!("::{path}::").contains(&format!("::{name}::"))
}

/// Reads one path, or a group of paths, that continues `prefix`.
fn read_path(
    tokens: &[(usize, &str)],
    at: &mut usize,
    prefix: &str,
    found: &mut Vec<(usize, String)>,
) {
    let mut path = prefix.to_owned();
    while let Some((line, token)) = tokens.get(*at).copied() {
        if token == "{" && !path.is_empty() {
            *at += 1;
            read_group(tokens, at, &path, found);
            return;
        }
        let is_glob = token == "*" && !path.is_empty();
        if !is_name(token) && !is_glob {
            return;
        }
        *at += 1;
        path = if path.is_empty() { token.to_owned() } else { format!("{path}::{token}") };
        let goes_on = tokens.get(*at).is_some_and(|(_, next)| *next == "::");
        let after = tokens.get(*at + 1).map_or("", |(_, after)| *after);
        if !goes_on || !(is_name(after) || after == "{" || after == "*") {
            found.push((line, path));
            return;
        }
        *at += 1;
    }
}

/// Reads the paths of a group up to its closing brace.
fn read_group(
    tokens: &[(usize, &str)],
    at: &mut usize,
    prefix: &str,
    found: &mut Vec<(usize, String)>,
) {
    while let Some((_, token)) = tokens.get(*at).copied() {
        if token == "}" {
            *at += 1;
            return;
        }
        let before = *at;
        if token != "as" {
            read_path(tokens, at, prefix, found);
        }
        if *at == before {
            // A comma, or `as` with the name that only this file knows.
            *at += if token == "as" { 2 } else { 1 };
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The names and the signs of the code, with their lines.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_part(first) {
                rest.find(|c| !is_part(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            let suffix = ["f32", "f64"].into_iter().find(|suffix| token.ends_with(suffix));
            let is_float = first.is_ascii_digit() && !token.starts_with("0x");
            tokens.push((index + 1, suffix.filter(|_| is_float).unwrap_or(token)));
            rest = after.trim_start();
        }
    }
    tokens
}

/// Intent: code is told from comments and literals, and lines stay lines.
#[test]
fn comments_and_literals_are_blanked() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */\n */ d", "a             \n    d"),
        (r#"a("b \" c")d"#, "a(        )d"),
        (r##"r#"a"b"# c"##, "         c"),
        (r#"br"\" c"#, "b     c"),
        ("'\\'' '\"' 'a'b", "            b"),
        ("&'a str; 'b: loop", "&'a str; 'b: loop"),
        ("for\"open", "for     "),
    ] {
        assert_eq!(blanked(text), code, "{text}");
    }
}

/// Intent: a path is found in whatever way it is written.
#[test]
fn groups_are_expanded() {
    for (code, expected) in [
        ("use a::b;", "use a::b"),
        ("use a::{b, c::{d, e as f}, g::*};", "use a::b a::c::d a::c::e a::g::*"),
        ("use a::{\n    self, b,\n};", "use a::self a::b"),
        ("a::b::<c::d>(e)", "a::b c::d e"),
        ("if a { b } else { c::d { e } }", "if a b else c::d e"),
        ("1.5f64 0xf64 2", "f64"),
    ] {
        let found: Vec<_> = paths(code).into_iter().map(|(_, path)| path).collect();
        assert_eq!(found.join(" "), expected, "{code}");
    }
    assert_eq!(paths("\n\na::b"), [(3, "a::b".to_owned())]);
    assert!(names("a::b::c", "b::c") && names("a", "a") && !names("ab::c", "b::c"));
}
