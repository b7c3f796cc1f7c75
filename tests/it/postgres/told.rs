//! What scrapers are told of servers that share a ledger.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{open, passed_on, scraped_member};
use crate::{
    crash::call::Client,
    engine::{self, Database},
    operations::Scrape,
    process::Server,
    service::reason,
};

/// Long enough for a busy machine to renew it in time.
const LEASE: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const CALLS: u64 = 10;
/// Many times as long as who stands by waits between two looks.
const LAG_MAX: Duration = Duration::from_secs(1);
/// What becomes of a call that a server does not pass on, by the reason that its caller hears.
const REFUSED: [(&str, &str); 3] = [
    ("STARTING", "owner_unknown"),
    ("OWNER_UNREACHABLE", "owner_unreachable"),
    ("NOT_OWNER", "not_owner"),
];

async fn scrape(server: &Server) -> Scrape {
    Scrape::at(server.operations()).await
}

/// What a server tells as soon as that is what is waited for.
async fn scrape_until(server: &Server, is_it: impl Fn(&Scrape) -> bool) -> Scrape {
    let begun = Instant::now();
    loop {
        let told = scrape(server).await;
        if is_it(&told) {
            return told;
        }
        assert!(begun.elapsed() < WITHIN, "{told:#?}");
        sleep(LOOK_AGAIN).await;
    }
}

fn owns(told: &Scrape) -> bool {
    let (owned, epoch) = (told.get("daybook_ledger_owned"), told.get("daybook_ledger_epoch"));
    assert_eq!(owned, u64::from(epoch > 0), "{told:#?}");
    owned == 1
}

/// Intent: it can be seen who owns the ledger and since which epoch, how far another server has
/// followed, and what became of the calls that it passed on; before a takeover and after it.
#[tokio::test]
async fn it_is_told_who_owns_a_ledger() {
    let Some(url) = super::new_ledger() else { return };
    let mut owner = scraped_member(&url, LEASE, &[]).await;
    owner.wait_for_line("\"serving\"").await;
    let other = scraped_member(&url, LEASE, &[]).await;
    let mut client = Client::new(other.connect().await);
    for position in 1..=CALLS {
        assert_eq!(open(&mut client).await.unwrap(), i64::try_from(position).unwrap());
    }

    let told = scrape(&owner).await;
    assert!(owns(&told), "{told:#?}");
    let epoch = told.get("daybook_ledger_epoch");
    let lease = told.seconds("daybook_lease_remaining_seconds");
    assert!(!lease.is_zero() && lease <= LEASE * 3 / 4, "{lease:?}");
    assert_eq!(passed_on(&told, "answered"), 0);
    for family in ["daybook_standby_position", "daybook_standby_lag_seconds"] {
        assert_eq!(told.find(family), None);
    }

    let is_there = |told: &Scrape| told.get("daybook_standby_position") == CALLS;
    let told = scrape_until(&other, is_there).await;
    assert!(!owns(&told), "{told:#?}");
    assert!(lag(&told) < LAG_MAX, "{told:#?}");
    assert_eq!(passed_on(&told, "answered"), CALLS);
    for (_, outcome) in REFUSED {
        assert_eq!(passed_on(&told, outcome), 0, "{outcome}");
    }

    owner.kill();
    let mut heard = BTreeMap::<String, u64>::new();
    while let Err(status) = open(&mut client).await {
        *heard.entry(reason(&status)).or_default() += 1;
        sleep(LOOK_AGAIN).await;
    }
    let told = scrape_until(&other, owns).await;
    assert!(told.get("daybook_ledger_epoch") > epoch, "{epoch}: {told:#?}");
    assert!(!told.seconds("daybook_lease_remaining_seconds").is_zero());
    assert_eq!(told.find("daybook_standby_lag_seconds"), None);
    for (reason, outcome) in REFUSED {
        let count = heard.get(reason).copied().unwrap_or(0);
        assert_eq!(passed_on(&told, outcome), count, "{outcome}: {heard:?}");
    }
    assert_eq!(passed_on(&told, "answered"), CALLS, "it answers for itself");
}

/// Intent: who cannot follow the log any more tells for how long, and not what it told last.
#[tokio::test]
async fn it_is_told_how_old_the_end_of_the_log_is() {
    let Some(database) = Database::start(&[]) else { return };
    let url = engine::ledger_of(&database.url, "told");
    let mut owner = scraped_member(&url, LEASE, &[]).await;
    owner.wait_for_line("\"serving\"").await;
    let mut other = scraped_member(&url, LEASE, &[]).await;
    // It is not counted from the start.
    sleep(LAG_MAX).await;
    scrape_until(&other, |told| lag(told) < LAG_MAX).await;
    drop(database);
    let told = scrape_until(&other, |told| lag(told) > LEASE).await;
    assert!(!owns(&told), "{told:#?}");
    assert_eq!(told.seconds("daybook_lease_remaining_seconds"), Duration::ZERO);
    assert!(other.is_running(), "{:?}", other.lines());
    let is_over = |told: &Scrape| told.get("daybook_state{state=\"unreachable\"}") == 1;
    let told = scrape_until(&owner, is_over).await;
    assert!(!owns(&told), "{told:#?}");
}

fn lag(told: &Scrape) -> Duration {
    told.seconds("daybook_standby_lag_seconds")
}
