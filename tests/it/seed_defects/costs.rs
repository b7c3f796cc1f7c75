//! Defects of cost: what must not grow with the number of accounts or events.
//!
//! Medians of many calls are compared, generously, and measured again before they are believed:
//! a cost that grows with the size would be hundreds of times as large.

use std::time::{Duration, Instant};

use daybook::proto::GetStatsRequest;

use crate::service::{Client, InBatch as _, Rpc, Service, deposit, open};

const SAMPLES: usize = 151;
const ATTEMPTS: usize = 5;
/// How many times as slow the large may be.
const RATIO_MAX: u32 = 5;

async fn time_of<R: Rpc>(client: &Client, request: R) -> Duration
where
    R::Response: std::fmt::Debug,
{
    let start = Instant::now();
    client.call(request).await.unwrap();
    start.elapsed()
}

/// The median times of two calls, made in turn.
async fn medians<R: Rpc, S: Rpc>(
    (small, small_call): (&Client, impl Fn() -> R),
    (large, large_call): (&Client, impl Fn() -> S),
) -> (Duration, Duration)
where
    R::Response: std::fmt::Debug,
    S::Response: std::fmt::Debug,
{
    let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        of_small.push(time_of(small, small_call()).await);
        of_large.push(time_of(large, large_call()).await);
    }
    of_small.sort();
    of_large.sort();
    (of_small[SAMPLES / 2], of_large[SAMPLES / 2])
}

async fn with_accounts(count: usize) -> Service {
    let service = Service::in_memory().await;
    service.carry_out((0..count).map(|_| open("ada", 1).in_batch()).collect()).await;
    service
}

#[tokio::test]
async fn defect_stats_that_cost_more_with_more_accounts() {
    // The figures of 20,000 accounts cost what those of 10 cost.
    let (small, large) = (with_accounts(10).await, with_accounts(20_000).await);
    assert_eq!(large.stats().await.account_count, 20_000);
    let mut measured = Vec::new();
    for _ in 0..ATTEMPTS {
        let (of_small, of_large) =
            medians((&small, GetStatsRequest::default), (&large, GetStatsRequest::default)).await;
        if of_large < of_small * RATIO_MAX {
            return;
        }
        measured.push((of_small, of_large));
    }
    panic!("GetStats with 10 and with 20,000 accounts: {measured:?}");
}

#[tokio::test]
async fn defect_commands_that_cost_more_with_more_events() {
    // A deposit costs the same on an account with 20,000 events and on a new one.
    let service = Service::in_memory().await;
    let (fresh, old) = (service.opened(0).await, service.opened(0).await);
    service.carry_out((0..20_000).map(|_| deposit(&old, 1).in_batch()).collect()).await;
    assert_eq!(service.account(&old).await.version, 20_001);
    let mut measured = Vec::new();
    for _ in 0..ATTEMPTS {
        let (of_fresh, of_old) =
            medians((&service, || deposit(&fresh, 1)), (&service, || deposit(&old, 1))).await;
        if of_old < of_fresh * RATIO_MAX {
            return;
        }
        measured.push((of_fresh, of_old));
    }
    panic!("a deposit on a fresh and on an old account: {measured:?}");
}
