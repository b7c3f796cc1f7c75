//! Parsing of the credentials file.
//!
//! The messages name lines and keys, never values: somebody may have put a token where its hash
//! belongs.

use std::collections::HashSet;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{CertificateName, Role, Row, TOKENS_MAX, TokenHash, Wrong};
use crate::domain::{AccountId, Principal};

/// How many characters the name of a certificate and the subject of a JWT may have.
const NAME_CHARS_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    principal: Vec<Spanned<Table>>,
}

/// Any values, so that it is said here what is wrong with them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: Option<Spanned<Value>>,
    role: Option<Spanned<Value>>,
    token_sha256: Option<Spanned<Value>>,
    certificate: Option<Spanned<Value>>,
    subject: Option<Spanned<Value>>,
    accounts: Option<Spanned<Value>>,
}

/// The text, and what was read of it so far.
struct Reader<'a> {
    text: &'a str,
    names: HashSet<Principal>,
    tokens: HashSet<TokenHash>,
    certificates: HashSet<CertificateName>,
    subjects: HashSet<Box<str>>,
}

/// What the file says of each principal.
pub(super) fn rows(text: &str) -> Result<Vec<Row>, Wrong> {
    let document: Document = toml::from_str(text).map_err(|error| of_toml(text, &error))?;
    let mut reader = Reader {
        text,
        names: HashSet::new(),
        tokens: HashSet::new(),
        certificates: HashSet::new(),
        subjects: HashSet::new(),
    };
    if document.principal.is_empty() {
        return Err(Wrong { line: None, what: "there is no [[principal]] in it".to_owned() });
    }
    document.principal.into_iter().map(|table| reader.row(table)).collect()
}

impl Reader<'_> {
    fn row(&mut self, table: Spanned<Table>) -> Result<Row, Wrong> {
        let start = table.span().start;
        let table = table.into_inner();
        let principal = self.name(table.name, start)?;
        let role = self.role(table.role, start)?;
        let tokens = self.list("token_sha256", table.token_sha256, |text| {
            TokenHash::parse(text).ok_or("must be the 64 hexadecimal digits of a SHA-256")
        })?;
        let certificates = self.list("certificate", table.certificate, |text| {
            checked(text).and_then(|text| CertificateName::parse(text).ok_or("must not be empty"))
        })?;
        let subjects = self.list("subject", table.subject, |text| Ok(checked(text)?.into()))?;
        let accounts = table.accounts;
        let line = accounts.as_ref().map(|accounts| accounts.span().start);
        let accounts = self.list("accounts", accounts, |text| {
            AccountId::parse(text).map_err(|_| "must be the id of an account, a UUID")
        })?;
        if tokens.is_empty() && certificates.is_empty() && subjects.is_empty() {
            let what = "the principal has no token_sha256, no certificate and no subject";
            return Err(self.wrong(start, what));
        }
        let at = line.unwrap_or(start);
        if role == Role::Admin && line.is_some() {
            return Err(self.wrong(at, "accounts must not be given for an admin"));
        }
        if line.is_some() && accounts.is_empty() {
            return Err(self.wrong(at, "accounts must have at least one id"));
        }
        self.unite("a token_sha256", start, &tokens, |reader| &mut reader.tokens)?;
        self.unite("a certificate", start, &certificates, |reader| &mut reader.certificates)?;
        self.unite("a subject", start, &subjects, |reader| &mut reader.subjects)?;
        if self.tokens.len() > TOKENS_MAX {
            let what = format!("there are more than {TOKENS_MAX} token_sha256 in all");
            return Err(self.wrong(start, what));
        }
        let accounts = line.map(|_| accounts);
        Ok(Row { principal, role, tokens, certificates, subjects, accounts })
    }

    fn name(&mut self, name: Option<Spanned<Value>>, start: usize) -> Result<Principal, Wrong> {
        let name = name.ok_or_else(|| self.wrong(start, "name is missing"))?;
        let at = name.span().start;
        let text = name.get_ref().as_str();
        let text = text.ok_or_else(|| self.wrong(at, "name must be a text"))?;
        let principal = Principal::new(text);
        let principal = principal.map_err(|error| self.wrong(at, format!("name {error}")))?;
        if !self.names.insert(principal.clone()) {
            return Err(self.wrong(at, "name is that of an earlier principal"));
        }
        Ok(principal)
    }

    fn role(&self, role: Option<Spanned<Value>>, start: usize) -> Result<Role, Wrong> {
        let role = role.ok_or_else(|| self.wrong(start, "role is missing"))?;
        match role.get_ref().as_str() {
            Some("reader") => Ok(Role::Reader),
            Some("writer") => Ok(Role::Writer),
            Some("admin") => Ok(Role::Admin),
            Some(_) | None => {
                let what = "role must be \"reader\", \"writer\" or \"admin\"";
                Err(self.wrong(role.span().start, what))
            }
        }
    }

    /// A list of different texts, each of which `parse` takes; empty when it is left out.
    fn list<T: std::hash::Hash + Eq>(
        &self,
        key: &str,
        list: Option<Spanned<Value>>,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<HashSet<T>, Wrong> {
        let Some(list) = list else { return Ok(HashSet::new()) };
        let at = list.span().start;
        let items = list.get_ref().as_array();
        let items = items.ok_or_else(|| self.wrong(at, format!("{key} must be a list")))?;
        let mut parsed = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let wrong = |what: &str| self.wrong(at, format!("{key}[{index}] {what}"));
            let text = item.as_str().ok_or_else(|| wrong("must be a text"))?;
            let item = parse(text).map_err(wrong)?;
            if !parsed.insert(item) {
                return Err(wrong("is there twice"));
            }
        }
        Ok(parsed)
    }

    /// Notes what one principal is known by, which must be nothing that another is known by.
    fn unite<T: std::hash::Hash + Eq + Clone>(
        &mut self,
        what: &str,
        start: usize,
        new: &HashSet<T>,
        all: impl Fn(&mut Self) -> &mut HashSet<T>,
    ) -> Result<(), Wrong> {
        for item in new {
            if !all(self).insert(item.clone()) {
                return Err(self.wrong(start, format!("{what} is that of an earlier principal")));
            }
        }
        Ok(())
    }

    fn wrong(&self, at: usize, what: impl Into<String>) -> Wrong {
        Wrong { line: Some(line(self.text, at)), what: what.into() }
    }
}

fn checked(text: &str) -> Result<&str, &'static str> {
    if text.is_empty() {
        Err("must not be empty")
    } else if text.chars().count() > NAME_CHARS_MAX {
        Err("must have at most 512 characters")
    } else if text.chars().any(char::is_control) {
        Err("must not contain control characters")
    } else {
        Ok(text)
    }
}

/// The line of a place in a text, counted from 1.
fn line(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.matches('\n').count().saturating_add(1)
}

/// What the parser of TOML found, unless it would repeat what the file says.
fn of_toml(text: &str, error: &toml::de::Error) -> Wrong {
    let tells_keys_only = ["unknown field", "duplicate key"];
    let message = error.message();
    let is_harmless = tells_keys_only.iter().any(|start| message.starts_with(start));
    let what = if is_harmless { message } else { "it is not TOML of the form that is expected" };
    Wrong { line: error.span().map(|span| line(text, span.start)), what: what.to_owned() }
}
