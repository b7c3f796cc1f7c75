//! What the statements do that decide who may append: each against a real database, without a
//! server in between whose lease would keep it from asking.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use daybook::{
    domain::{AccountId, Balance, CurrencyCode, Event, Fact, Owner},
    event_store::{AccountLink, Codec, Entry, EntryAccount, EventIds},
    log::{
        Block, ChainHash, Group, Head, LogId, memory,
        shared::{Appended, Members as _, NodeId, Source as _, Store as _, StoreError},
    },
    postgres::{Blocks, Database, Epochs, Nodes, SetUp, set_up},
};
use uuid::Uuid;

use crate::engine;

const TIME: Duration = Duration::from_secs(30);
const NOT_DURABLE_WITHIN: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The tables of a ledger, and what is to be appended to it.
struct Ledger {
    url: String,
    log_id: LogId,
    store: Epochs,
    nodes: Nodes,
    head: Head,
}

impl Ledger {
    fn new(url: String) -> Self {
        let database = database(&url);
        let how = SetUp { new_log_id: *Uuid::now_v7().as_bytes(), grant: None };
        let log_id = set_up(&database, &how).unwrap();
        // Who comes second finds what there is.
        let again = SetUp { new_log_id: *Uuid::now_v7().as_bytes(), grant: None };
        assert_eq!(set_up(&database, &again).unwrap(), log_id);
        let nodes = Nodes::new(database.clone(), "http://127.0.0.1:1".to_owned());
        let store = Epochs::new(database, log_id);
        let (_, empty) = memory::open(log_id);
        Self { url, log_id, store, nodes, head: empty.head() }
    }

    fn join(&mut self) -> NodeId {
        let node = *Uuid::now_v7().as_bytes();
        self.nodes.join(node, TIME).unwrap();
        node
    }

    /// Makes a node the owner. Gives its epoch.
    fn own(&mut self, node: NodeId) -> u64 {
        let epoch = self.store.claim(node).unwrap().unwrap();
        assert_eq!(self.store.seal(epoch).unwrap(), Some(self.head));
        epoch
    }

    /// Lets the time of a node be over.
    fn expire(&self, node: NodeId) {
        let node = Uuid::from_bytes(node);
        let sql = format!("update nodes set expire_time = now() where id = '{node}'");
        engine::execute(&self.url, &sql);
    }

    /// An append after the head, as the tables have it when it is done.
    fn append(&mut self, epoch: u64) -> Result<Appended, StoreError> {
        let (blocks, after) = next(self.log_id, &self.head);
        let appended = self.store.append(epoch, &self.head, &blocks, &after);
        if appended == Ok(Appended::Durable) {
            self.head = after;
        }
        appended
    }

    fn events(&self) -> usize {
        engine::query(&self.url, "select position from events").unwrap().len()
    }
}

fn database(url: &str) -> Database {
    Database::new(url.parse().unwrap(), None)
}

/// The opening of an account as the block that follows on the head, and the head after it.
fn next(log_id: LogId, head: &Head) -> (Vec<(Block, ChainHash)>, Head) {
    let position = head.position + 1;
    let id = AccountId::new(Uuid::from_u64_pair(position, 7));
    let number = u32::try_from(position - 1).unwrap();
    let (version, balance, link) = (0, Balance::new(0).unwrap(), AccountLink::default());
    let fact = Fact::AccountOpened {
        owner: Owner::new("Ada").unwrap(),
        currency: CurrencyCode::USD,
        initial_balance: Balance::new(1).unwrap(),
    };
    let entry = Entry {
        first_position: position,
        accounts: vec![EntryAccount { id, number, version, balance, link }],
        events: vec![Event { slot: 0, fact }],
        ..Entry::default()
    };
    // A log in memory makes blocks as every other one does; here each has one record.
    let (mut writer, reader) = memory::open(log_id);
    let mut hash = *head;
    let mut last = None;
    for at in 1..=position {
        let mut group = Group::new(at);
        let entry = Entry { first_position: at, ..entry.clone() };
        group.push(1, |bytes| Codec::new(EventIds::new(log_id)).encode(&entry, bytes));
        hash = writer.append(&group).unwrap();
        last = Some(reader.block(at).unwrap());
    }
    drop((writer, reader));
    let block = Arc::into_inner(last.unwrap()).unwrap();
    let bytes = head.bytes + u64::try_from(block.byte_count()).unwrap();
    (vec![(block, hash.hash)], Head { position, hash: hash.hash, bytes })
}

/// Intent: nobody appends but under the newest epoch, at the head, and once.
#[test]
fn an_older_epoch_appends_nothing() {
    let Some(url) = super::new_ledger() else { return };
    let mut ledger = Ledger::new(url);
    let (one, other) = (ledger.join(), ledger.join());
    let epoch = ledger.own(one);
    let before = ledger.head;
    assert_eq!(ledger.append(epoch), Ok(Appended::Durable));
    // The same once more, as after a lost answer.
    let (blocks, after) = next(ledger.log_id, &before);
    assert_eq!(ledger.store.append(epoch, &before, &blocks, &after), Ok(Appended::Doubtful));
    assert_eq!(ledger.events(), 1);

    ledger.store.release(one, epoch).unwrap();
    let newer = ledger.own(other);
    assert!(newer > epoch);
    assert_eq!(ledger.store.seal(epoch), Ok(None), "the log is sealed by a newer epoch");
    assert_eq!(ledger.append(epoch), Ok(Appended::Doubtful), "at the right place, and too late");
    assert_eq!(ledger.append(newer + 1), Ok(Appended::Doubtful), "nobody has sealed it so far");
    assert_eq!(ledger.events(), 1);
    assert_eq!(ledger.append(newer), Ok(Appended::Durable));
    let tip = ledger.store.touch().unwrap();
    assert_eq!((tip.epoch, tip.head), (newer, ledger.head));
    let read = Blocks::new(database(&ledger.url), ledger.log_id).read(1, 2, 10).unwrap();
    assert_eq!(read.blocks.last().unwrap().hash, ledger.head.hash);
}

/// Intent: an owner keeps all others out as long as it is alive, and not a moment longer.
#[test]
fn an_owner_is_one_that_is_alive() {
    let Some(url) = super::new_ledger() else { return };
    let mut ledger = Ledger::new(url);
    let (one, other) = (ledger.join(), ledger.join());
    let epoch = ledger.own(one);
    assert_eq!(ledger.store.claim(other), Ok(None));
    assert_eq!(ledger.nodes.renew(one, TIME), Ok(true));
    ledger.expire(one);
    assert_eq!(ledger.nodes.renew(one, TIME), Ok(false), "nobody comes back");
    assert_eq!(ledger.store.claim(one), Ok(None), "who is not alive owns nothing");
    let newer = ledger.own(other);
    assert!(newer > epoch);
    ledger.store.release(one, epoch).unwrap();
    let third = ledger.join();
    assert_eq!(ledger.store.claim(third), Ok(None), "it was not its own any more");
    assert_eq!(ledger.store.owner(), Ok(Some("http://127.0.0.1:1".to_owned())));
    assert_eq!(ledger.store.claim(*Uuid::now_v7().as_bytes()), Ok(None), "it has never joined");
}

/// Intent: who cancels the wait for a standby makes the database report success. It is none.
#[test]
fn what_the_standby_has_not_is_not_durable() {
    let Some(server) = engine::Database::start(&["--standby"]) else { return };
    let url = engine::ledger_of(&server.url, "standby");
    let mut ledger = Ledger::new(url.clone());
    let node = ledger.join();
    let epoch = ledger.own(node);
    assert_eq!(ledger.append(epoch), Ok(Appended::Durable));
    // From now on a standby is waited for that there is not.
    engine::execute(&url, "alter system set synchronous_standby_names = 'nobody'");
    engine::execute(&url, "select pg_reload_conf()");
    let (tell, told) = mpsc::channel();
    let appending = thread::spawn(move || {
        let appended = ledger.append(epoch);
        tell.send(()).unwrap();
        appended
    });
    assert!(told.recv_timeout(NOT_DURABLE_WITHIN).is_err(), "it was not waited for");
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
        where application_name = 'daybook' and wait_event = 'SyncRep'";
    while engine::query(&url, cancel).unwrap().is_empty() {
        thread::sleep(LOOK_AGAIN);
    }
    assert_eq!(appending.join().unwrap(), Ok(Appended::Doubtful));
}

/// Intent: who waits for the row while another one joins and claims it does not put that one out,
/// though it knows nothing of it.
#[test]
fn a_claim_that_has_waited_puts_nobody_out() {
    let Some(url) = super::new_ledger() else { return };
    let mut ledger = Ledger::new(url.clone());
    let (gone, other) = (ledger.join(), ledger.join());
    ledger.own(gone);
    ledger.expire(gone);
    let meanwhile = format!(
        "begin;
        insert into nodes values ('{id}', 'http://127.0.0.1:2', now() + interval '1 minute');
        update assignment set owner = '{id}', epoch = epoch + 1;
        select pg_sleep(1);
        commit",
        id = Uuid::now_v7()
    );
    let claiming = thread::spawn({
        let url = url.clone();
        move || engine::execute(&url, &meanwhile)
    });
    let sleeping = "select pid from pg_stat_activity where wait_event = 'PgSleep'
        and query like '%127.0.0.1:2%'";
    while engine::query(&url, sleeping).unwrap().is_empty() {
        thread::sleep(LOOK_AGAIN);
    }
    assert_eq!(ledger.store.claim(other), Ok(None));
    claiming.join().unwrap();
    assert_eq!(ledger.store.owner(), Ok(Some("http://127.0.0.1:2".to_owned())));
}

/// Intent: a server that is told meanwhile to acknowledge what it may lose does not do so to who
/// found it fit.
#[test]
fn what_is_acknowledged_stays_durable() {
    let Some(server) = engine::Database::start(&[]) else { return };
    let url = engine::ledger_of(&server.url, "told");
    let mut ledger = Ledger::new(url.clone());
    let node = ledger.join();
    let epoch = ledger.own(node);
    // What nobody waits for is not written for ten seconds.
    for setting in ["synchronous_commit = off", "wal_writer_delay = '10s'"] {
        engine::execute(&url, &format!("alter system set {setting}"));
    }
    engine::execute(&url, "select pg_reload_conf()");
    while engine::query(&url, "show synchronous_commit").unwrap() != ["off"] {
        thread::sleep(LOOK_AGAIN);
    }
    // Each session hears of it by itself.
    thread::sleep(NOT_DURABLE_WITHIN);
    assert_eq!(ledger.append(epoch), Ok(Appended::Durable));
    server.crash();
    while engine::query(&url, "select 'there'").is_ok() {
        thread::sleep(LOOK_AGAIN);
    }
    while engine::query(&url, "select 'there'").is_err() {
        thread::sleep(LOOK_AGAIN);
    }
    assert_eq!(ledger.events(), 1);
}
