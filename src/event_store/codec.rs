//! The codec: entries as bytes, and back.
//!
//! One entry is one record of the log. Its layout (numbers without a width are LEB128: seven bits
//! a byte, lowest first, in the fewest bytes):
//!
//! - 1 byte: flags. 1 request id, 2 expected version, 4 saga, 8 id given by the caller, 16 reason,
//!   32 principal; the other bits are 0. The principal came with version 2 of the log's format: no
//!   record of version 1 has it.
//! - 8 bytes: time in microseconds since 1970 UTC, little-endian, not negative.
//! - 16 bytes: the request id, if flagged.
//! - number: the expected version, if flagged.
//! - number: if the saga is flagged, how many positions back the newest saga is that ended alike
//!   (0: none); then 16 bytes, its id, if the caller gave it: else it is that of the first event.
//! - number, bytes: the reason, if flagged: how many bytes, 1 or more, and the UTF-8.
//! - number, bytes: the principal, if flagged, likewise: 1 to 128 characters.
//! - 1 byte: how many accounts, 1 or 2. Each is
//!   - 16 bytes: its id;
//!   - number: how many accounts were opened before it;
//!   - number: its version before the entry;
//!   - number: its balance before the entry;
//!   - number: unless its version is 0, how many positions back its entry before this one is,
//!     doubled; one more if there is a skip link;
//!   - number: how many positions back the skip link leads, if there is one.
//! - 1 byte: how many events, 1 to 5. Each is
//!   - 1 byte: its kind (low four bits) and the slot of its account (high four bits);
//!   - what its kind adds.
//!
//! Kinds: 1 opened (number and bytes of the owner; number, the packed currency; number, the
//! balance); 2 deposited (number, the amount); 3 given back (the same); 4 withdrawn (the same);
//! 5 transfer initiated (number, the amount; one byte, the slot of the destination, or 255 and
//! its 16 bytes where it has no slot); 6 transfer completed; 7 transfer failed (one byte: 1
//! insufficient funds, 2 destination not found, 3 destination closed, 4 balance limit); 8 closed.
//!
//! A balance after an event is not written: it follows from the balance before and the amount.
//! The encoding is canonical: an entry has exactly one, and decoding takes no other.

use super::{
    EventIds,
    entry::{ACCOUNTS_MAX, AccountLink, EVENTS_MAX, Entry, EntryAccount, SagaLink},
    varint::{Reader, put_number},
};
use crate::{
    domain::{
        AccountId, Amount, Balance, CurrencyCode, Event, Fact, OWNER_CHARS_MAX, Owner,
        PRINCIPAL_CHARS_MAX, Principal, REASON_CHARS_MAX, RequestId, SagaId, TransferError,
    },
    log::Record,
};

const REQUEST_ID: u8 = 1;
const EXPECTED_VERSION: u8 = 2;
const SAGA: u8 = 4;
const ID_GIVEN: u8 = 8;
const REASON: u8 = 16;
const PRINCIPAL: u8 = 32;
/// What a record of version 1 may have, and what one may have since version 2.
const FLAGS_OF_1: u8 = REQUEST_ID | EXPECTED_VERSION | SAGA | ID_GIVEN | REASON;
const FLAGS_SINCE_2: u8 = FLAGS_OF_1 | PRINCIPAL;

const OPENED: u8 = 1;
const DEPOSITED: u8 = 2;
const GIVEN_BACK: u8 = 3;
const WITHDRAWN: u8 = 4;
const INITIATED: u8 = 5;
const COMPLETED: u8 = 6;
const FAILED: u8 = 7;
const CLOSED: u8 = 8;

/// In place of a slot: the destination's id follows.
const NO_SLOT: u8 = 255;
/// How many bytes a character of UTF-8 takes at most.
const CHAR_BYTES_MAX: usize = 4;

/// A record that is not an entry in its one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record is not a valid entry: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// Encodes and decodes the entries of one log.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    ids: EventIds,
}

impl Codec {
    /// For the log with these event ids.
    #[must_use]
    pub fn new(ids: EventIds) -> Self {
        Self { ids }
    }

    /// The event ids of the log.
    #[must_use]
    pub fn ids(&self) -> &EventIds {
        &self.ids
    }

    /// Appends the entry's bytes.
    pub fn encode(&self, entry: &Entry, out: &mut Vec<u8>) {
        out.push(flags(entry));
        out.extend_from_slice(&entry.time_micros.to_le_bytes());
        if let Some(request_id) = &entry.request_id {
            out.extend_from_slice(request_id.bytes());
        }
        if let Some(version) = entry.expected_version {
            put_number(out, version);
        }
        if let Some(saga) = &entry.saga {
            put_number(out, back(entry.first_position, saga.previous));
            if entry.id_given {
                out.extend_from_slice(saga.id.bytes());
            }
        }
        if !entry.reason.is_empty() {
            put_text(out, &entry.reason);
        }
        if let Some(principal) = &entry.principal {
            put_text(out, principal.as_str());
        }
        out.push(small(entry.accounts.len()));
        for account in &entry.accounts {
            put_account(out, entry.first_position, account);
        }
        out.push(small(entry.events.len()));
        for event in &entry.events {
            put_event(out, entry, event);
        }
    }

    /// Reads the entry of a record.
    ///
    /// # Errors
    /// [`Malformed`] when the record's bytes are not the one encoding of an entry in its format.
    pub fn decode(&self, record: &Record<'_>) -> Result<Entry, Malformed> {
        let mut entry = Entry::default();
        self.decode_into(record, &mut entry)?;
        Ok(entry)
    }

    /// As [`Codec::decode`], into the memory of another entry.
    ///
    /// # Errors
    /// [`Malformed`]; the entry is then without meaning.
    pub fn decode_into(&self, record: &Record<'_>, entry: &mut Entry) -> Result<(), Malformed> {
        let Record { format, first_position, bytes, .. } = *record;
        let mut reader = Reader::new(bytes);
        let flags = reader.byte()?;
        let known = if format == 1 { FLAGS_OF_1 } else { FLAGS_SINCE_2 };
        if flags & !known != 0 {
            return Err(Malformed("unknown flags"));
        }
        let has = |flag: u8| flags & flag != 0;
        let time_micros = i64::from_le_bytes(reader.array()?);
        if time_micros < 0 {
            return Err(Malformed("a time before 1970"));
        }
        entry.first_position = first_position;
        entry.time_micros = time_micros;
        entry.id_given = has(ID_GIVEN);
        entry.request_id = has(REQUEST_ID).then(|| reader.id()).transpose()?.map(RequestId::new);
        entry.expected_version = has(EXPECTED_VERSION).then(|| reader.number()).transpose()?;
        entry.saga = has(SAGA)
            .then(|| self.read_saga(&mut reader, first_position, time_micros, has(ID_GIVEN)))
            .transpose()?;
        let reason_bytes_max = REASON_CHARS_MAX.saturating_mul(CHAR_BYTES_MAX);
        let reason = has(REASON).then(|| reader.text(reason_bytes_max)).transpose()?;
        entry.reason = reason.unwrap_or_default().into();
        if has(PRINCIPAL) {
            read_principal(&mut reader, &mut entry.principal)?;
        } else if entry.principal.is_some() {
            entry.principal = None;
        }
        read_accounts(&mut reader, first_position, &mut entry.accounts)?;
        read_events(&mut reader, &entry.accounts, &mut entry.events)?;
        reader.end()
    }

    fn read_saga(
        &self,
        reader: &mut Reader<'_>,
        first_position: u64,
        time_micros: i64,
        given: bool,
    ) -> Result<SagaLink, Malformed> {
        let previous = forth(first_position, reader.number()?)?;
        let id = if given { reader.id()? } else { self.ids.at(first_position, time_micros) };
        Ok(SagaLink { id: SagaId::new(id), previous })
    }
}

fn flags(entry: &Entry) -> u8 {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    flag(entry.request_id.is_some(), REQUEST_ID)
        | flag(entry.expected_version.is_some(), EXPECTED_VERSION)
        | flag(entry.saga.is_some(), SAGA)
        | flag(entry.id_given, ID_GIVEN)
        | flag(!entry.reason.is_empty(), REASON)
        | flag(entry.principal.is_some(), PRINCIPAL)
}

/// How far `earlier` lies back; 0 for none.
fn back(position: u64, earlier: u64) -> u64 {
    if earlier == 0 { 0 } else { position.saturating_sub(earlier) }
}

/// The position that lies `distance` back; 0 for none.
fn forth(position: u64, distance: u64) -> Result<u64, Malformed> {
    if distance == 0 {
        return Ok(0);
    }
    match position.checked_sub(distance) {
        None | Some(0) => Err(Malformed("a link to before the log")),
        Some(earlier) => Ok(earlier),
    }
}

fn small(count: usize) -> u8 {
    match u8::try_from(count) {
        Ok(count) => count,
        Err(_) => unreachable!("an entry has few accounts and events"),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, u64::try_from(text.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn put_money(out: &mut Vec<u8>, minor: i64) {
    put_number(out, minor.unsigned_abs());
}

fn put_account(out: &mut Vec<u8>, position: u64, account: &EntryAccount) {
    let link = &account.link;
    out.extend_from_slice(account.id.bytes());
    put_number(out, account.number.into());
    put_number(out, account.version);
    put_money(out, account.balance.minor());
    if account.version > 0 {
        let has_skip = u64::from(link.skip != 0);
        put_number(out, back(position, link.previous).saturating_mul(2) | has_skip);
    }
    if link.skip != 0 {
        put_number(out, back(position, link.skip));
    }
}

fn put_event(out: &mut Vec<u8>, entry: &Entry, event: &Event) {
    let mut put_kind = |kind: u8| out.push(kind | small(event.slot) << 4);
    match &event.fact {
        Fact::AccountOpened { owner, currency, initial_balance } => {
            put_kind(OPENED);
            put_text(out, owner.as_str());
            put_number(out, currency.packed());
            put_money(out, initial_balance.minor());
        }
        Fact::MoneyDeposited { amount, balance: _, compensation } => {
            put_kind(if *compensation { GIVEN_BACK } else { DEPOSITED });
            put_money(out, amount.minor());
        }
        Fact::MoneyWithdrawn { amount, balance: _ } => {
            put_kind(WITHDRAWN);
            put_money(out, amount.minor());
        }
        Fact::TransferInitiated { to, amount } => {
            put_kind(INITIATED);
            put_money(out, amount.minor());
            if let Some(slot) = entry.accounts.iter().position(|account| account.id == *to) {
                out.push(small(slot));
            } else {
                out.push(NO_SLOT);
                out.extend_from_slice(to.bytes());
            }
        }
        Fact::TransferCompleted => put_kind(COMPLETED),
        Fact::TransferFailed { error } => {
            put_kind(FAILED);
            out.push(match error {
                TransferError::InsufficientFunds => 1,
                TransferError::DestinationNotFound => 2,
                TransferError::DestinationClosed => 3,
                TransferError::BalanceLimit => 4,
            });
        }
        Fact::AccountClosed => put_kind(CLOSED),
    }
}

/// Leaves a principal that is the same as it is: one entry after another is often of one principal,
/// and then takes no memory for it. A function of its own, so that entries without a principal do
/// not carry its weight.
#[inline(never)]
fn read_principal(
    reader: &mut Reader<'_>,
    principal: &mut Option<Principal>,
) -> Result<(), Malformed> {
    let name = reader.text(PRINCIPAL_CHARS_MAX.saturating_mul(CHAR_BYTES_MAX))?;
    if principal.as_ref().is_none_or(|known| known.as_str() != name) {
        let found = Principal::new(name).map_err(|_| Malformed("a wrong principal"))?;
        *principal = Some(found);
    }
    Ok(())
}

fn read_accounts(
    reader: &mut Reader<'_>,
    first_position: u64,
    accounts: &mut Vec<EntryAccount>,
) -> Result<(), Malformed> {
    let count = usize::from(reader.byte()?);
    if !(1..=ACCOUNTS_MAX).contains(&count) {
        return Err(Malformed("a wrong number of accounts"));
    }
    accounts.clear();
    for _ in 0..count {
        let account = read_account(reader, first_position)?;
        if accounts.iter().any(|other| other.id == account.id) {
            return Err(Malformed("an account that has two slots"));
        }
        accounts.push(account);
    }
    Ok(())
}

fn read_account(reader: &mut Reader<'_>, first_position: u64) -> Result<EntryAccount, Malformed> {
    let id = AccountId::new(reader.id()?);
    let number = u32::try_from(reader.number()?);
    let number = number.map_err(|_| Malformed("a number that no account has"))?;
    let version = reader.number()?;
    let balance = read_balance(reader)?;
    let mut link = AccountLink::default();
    if version > 0 {
        let doubled = reader.number()?;
        link.previous = link_back(first_position, doubled / 2)?;
        if doubled % 2 == 1 {
            link.skip = link_back(first_position, reader.number()?)?;
        }
    }
    Ok(EntryAccount { id, number, version, balance, link })
}

/// The position that a link of an account leads to, which must be one.
fn link_back(first_position: u64, distance: u64) -> Result<u64, Malformed> {
    match forth(first_position, distance)? {
        0 => Err(Malformed("a link that leads nowhere")),
        earlier => Ok(earlier),
    }
}

fn read_balance(reader: &mut Reader<'_>) -> Result<Balance, Malformed> {
    let minor = i64::try_from(reader.number()?).ok();
    minor.and_then(Balance::new).ok_or(Malformed("a balance out of range"))
}

fn read_amount(reader: &mut Reader<'_>) -> Result<Amount, Malformed> {
    let minor = i64::try_from(reader.number()?).ok();
    minor.and_then(Amount::new).ok_or(Malformed("an amount out of range"))
}

fn read_events(
    reader: &mut Reader<'_>,
    accounts: &[EntryAccount],
    events: &mut Vec<Event>,
) -> Result<(), Malformed> {
    let count = usize::from(reader.byte()?);
    if !(1..=EVENTS_MAX).contains(&count) {
        return Err(Malformed("a wrong number of events"));
    }
    let mut balances = [Balance::ZERO; ACCOUNTS_MAX];
    for (balance, account) in balances.iter_mut().zip(accounts) {
        *balance = account.balance;
    }
    events.clear();
    for _ in 0..count {
        let head = reader.byte()?;
        let slot = usize::from(head >> 4);
        if slot >= accounts.len() {
            return Err(Malformed("a wrong slot"));
        }
        let balance = balances.get_mut(slot).ok_or(Malformed("a wrong slot"))?;
        let fact = read_fact(reader, head & 0x0f, *balance, accounts)?;
        *balance = fact.balance_after().unwrap_or(*balance);
        events.push(Event { slot, fact });
    }
    Ok(())
}

fn read_fact(
    reader: &mut Reader<'_>,
    kind: u8,
    before: Balance,
    accounts: &[EntryAccount],
) -> Result<Fact, Malformed> {
    match kind {
        OPENED => {
            let owner = reader.text(OWNER_CHARS_MAX.saturating_mul(CHAR_BYTES_MAX))?;
            let owner = Owner::new(owner).map_err(|_| Malformed("a wrong owner"))?;
            let currency =
                CurrencyCode::from_packed(reader.number()?).ok_or(Malformed("a wrong currency"))?;
            Ok(Fact::AccountOpened { owner, currency, initial_balance: read_balance(reader)? })
        }
        DEPOSITED | GIVEN_BACK => {
            let amount = read_amount(reader)?;
            let balance = before.plus(amount).ok_or(Malformed("a balance above the limit"))?;
            Ok(Fact::MoneyDeposited { amount, balance, compensation: kind == GIVEN_BACK })
        }
        WITHDRAWN => {
            let amount = read_amount(reader)?;
            let balance = before.minus(amount).ok_or(Malformed("a balance below 0"))?;
            Ok(Fact::MoneyWithdrawn { amount, balance })
        }
        INITIATED => {
            let amount = read_amount(reader)?;
            Ok(Fact::TransferInitiated { to: read_destination(reader, accounts)?, amount })
        }
        COMPLETED => Ok(Fact::TransferCompleted),
        FAILED => Ok(Fact::TransferFailed { error: read_error(reader)? }),
        CLOSED => Ok(Fact::AccountClosed),
        _ => Err(Malformed("an unknown kind of event")),
    }
}

fn read_destination(
    reader: &mut Reader<'_>,
    accounts: &[EntryAccount],
) -> Result<AccountId, Malformed> {
    let slot = reader.byte()?;
    if slot != NO_SLOT {
        let account = accounts.get(usize::from(slot)).ok_or(Malformed("a wrong slot"))?;
        return Ok(account.id);
    }
    let id = AccountId::new(reader.id()?);
    if accounts.iter().any(|account| account.id == id) {
        return Err(Malformed("a destination that has a slot"));
    }
    Ok(id)
}

fn read_error(reader: &mut Reader<'_>) -> Result<TransferError, Malformed> {
    match reader.byte()? {
        1 => Ok(TransferError::InsufficientFunds),
        2 => Ok(TransferError::DestinationNotFound),
        3 => Ok(TransferError::DestinationClosed),
        4 => Ok(TransferError::BalanceLimit),
        _ => Err(Malformed("an unknown error of a transfer")),
    }
}
