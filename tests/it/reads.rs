//! Reads: what they answer is what a plain fold over the events gives, now and at every earlier
//! moment, page by page and as a whole, before and after a restart.

use daybook::proto::{
    self, Account, AccountState, Event, GetAccountRequest, GetSagaRequest, SagaState,
    get_account_request::AsOf,
};
use prost_types::Timestamp;
use tonic::Code;
use uuid::Uuid;

use crate::{
    engine,
    service::{
        Client, InBatch as _, Random, Service, assert_refused, deposit, fresh_id, get, metadata,
        timestamp, transfer, withdraw,
    },
};

use self::{
    model::{Model, Story, order},
    script::{OWNERS, play},
};

mod checkpoints;
mod lists;
mod model;
mod script;

/// A service on which a script was played.
struct Played {
    service: Service,
    random: Random,
    ids: Vec<String>,
    model: Model,
}

impl Played {
    async fn new(seed: u64, commands: usize) -> Self {
        let service = Service::on_disk().await;
        let (mut random, mut ids) = (Random::seeded(seed), Vec::new());
        play(&service, &mut random, &mut ids, commands).await;
        let model = Model::fold(service.log().await);
        assert!(model.sagas.len() > 20, "only {} sagas", model.sagas.len());
        Self { service, random, ids, model }
    }

    /// Starts the server anew, and plays on.
    async fn go_on(&mut self, commands: usize) {
        self.service.restart().await;
        assert_eq!(self.service.log().await, self.model.log);
        play(&self.service, &mut self.random, &mut self.ids, commands).await;
        self.model = Model::fold(self.service.log().await);
    }
}

async fn as_of(client: &Client, id: &str, as_of: AsOf) -> Result<Account, tonic::Status> {
    let request = GetAccountRequest { as_of: Some(as_of), ..get(id) };
    client.call(request).await.map(|answer| answer.account.unwrap())
}

/// That an account is told as the model has it, or not found where the model has nothing.
async fn assert_as_of(client: &Client, story: &Story, moment: AsOf, expected: Option<&Account>) {
    let answer = as_of(client, story.id(), moment).await;
    match expected {
        Some(expected) => assert_eq!(&answer.unwrap(), expected, "{moment:?}"),
        None => drop(assert_refused(answer, Code::NotFound, "ACCOUNT_NOT_FOUND")),
    }
}

async fn assert_every_version(client: &Client, model: &Model) {
    for story in &model.accounts {
        let now = story.now();
        assert_eq!(&client.account(story.id()).await, now);
        for version in 0..=now.version {
            let expected = story.at_version(version);
            assert_as_of(client, story, AsOf::AsOfVersion(version), expected).await;
        }
    }
}

async fn assert_positions(client: &Client, model: &Model, step: usize) {
    for story in &model.accounts {
        for position in (0..=model.log.last().unwrap().position).step_by(step) {
            let expected = story.at_position(position);
            assert_as_of(client, story, AsOf::AsOfPosition(position), expected).await;
        }
    }
}

/// Every time that an event has, and the microseconds around it.
fn times(log: &[Event]) -> Vec<Timestamp> {
    let mut times = Vec::new();
    for event in log {
        let time = event.event_time.unwrap();
        let micros = time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
        for micros in [micros - 1, micros, micros + 1] {
            times.push(timestamp(micros));
        }
    }
    times.dedup();
    times
}

async fn assert_every_time(client: &Client, model: &Model) {
    let times = times(&model.log);
    for story in &model.accounts {
        // Some of the times for each account, others for the next.
        let first = usize::try_from(story.states[0].0 % 5).unwrap();
        for time in times.iter().skip(first).step_by(5) {
            assert_as_of(client, story, AsOf::AsOfTime(*time), story.at_time(*time)).await;
        }
    }
}

#[tokio::test]
async fn an_account_is_told_as_of_every_version() {
    // Every version of every account, some of them in the middle of a transfer, which is then
    // pending; and again after a restart and more commands.
    let mut played = Played::new(20_260_201, 300).await;
    assert_every_version(&played.service, &played.model).await;
    played.go_on(60).await;
    assert_every_version(&played.service, &played.model).await;
}

#[tokio::test]
async fn an_account_is_told_as_of_every_position() {
    // Every position of the log for every account, also where another account's event is; and
    // some of them again after a restart.
    let mut played = Played::new(20_260_202, 300).await;
    assert_positions(&played.service, &played.model, 1).await;
    played.go_on(10).await;
    assert_positions(&played.service, &played.model, 17).await;
}

#[tokio::test]
async fn an_account_is_told_as_of_every_time() {
    // Times are inclusive: an event is seen in the microsecond in which it was recorded.
    let played = Played::new(20_260_203, 200).await;
    let log = &played.model.log;
    let times: Vec<_> = log.iter().map(|event| order(event.event_time.unwrap())).collect();
    assert!(times.is_sorted());
    assert_every_time(&played.service, &played.model).await;
}

#[tokio::test]
async fn time_travel_finds_its_way_in_a_long_history() {
    // An account with 5,000 entries of one to three events each: 200 random versions and
    // positions; and again with what came after a restart.
    let mut service = Service::on_disk().await;
    let (a, b) = (service.opened(1_000_000).await, service.opened(1_000_000).await);
    let mut random = Random::seeded(20_260_204);
    for entries in [5_000, 200] {
        let commands = (0..entries).map(|_| match random.below(4) {
            0 => deposit(&a, random.between(1, 50)).in_batch(),
            1 => withdraw(&a, random.between(1, 50)).in_batch(),
            2 => transfer(&a, &b, random.between(1, 50)).in_batch(),
            _ => transfer(&b, &a, random.between(1, 50)).in_batch(),
        });
        service.carry_out(commands.collect()).await;
        let model = Model::fold(service.log().await);
        let story = &model.accounts[0];
        for _ in 0..200 {
            let version = random.between(1, story.now().version);
            let expected = story.at_version(version);
            assert_as_of(&service, story, AsOf::AsOfVersion(version), expected).await;
            let position = random.between(1, model.log.last().unwrap().position);
            let expected = story.at_position(position);
            assert_as_of(&service, story, AsOf::AsOfPosition(position), expected).await;
        }
        service.restart().await;
    }
}

#[tokio::test]
async fn stats_are_the_figures_of_the_events() {
    // Each figure, before and after a restart; the hash names the history, which has not changed.
    let mut played = Played::new(20_260_205, 300).await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let (stats, model) = (played.service.stats().await, &played.model);
        let count = |count: usize| i64::try_from(count).unwrap();
        let open = model.accounts.iter().filter(|it| it.now().state() == AccountState::Active);
        assert_eq!(stats.account_count, count(model.accounts.len()));
        assert_eq!(stats.open_account_count, count(open.count()));
        assert_eq!(
            (stats.event_count, stats.position),
            (count(model.log.len()), count(model.log.len()))
        );
        assert_eq!(stats.transaction_count, count(model.transactions.len()));
        let all =
            [SagaState::Running, SagaState::Completed, SagaState::Failed, SagaState::Compensated];
        let expected = all
            .map(|state| proto::SagaStateCount { state: state.into(), count: model.count(state) });
        assert_eq!(stats.saga_counts, expected);
        assert_eq!(
            (stats.engine.as_str(), stats.version.as_str()),
            (engine::name(), env!("CARGO_PKG_VERSION"))
        );
        assert!(stats.log_bytes > stats.event_count && stats.head_hash_position >= stats.position);
        assert!(stats.verified_position <= stats.head_hash_position && stats.damage.is_empty());
        assert!(
            stats.head_hash.len() == 64 && u128::from_str_radix(&stats.head_hash[..32], 16).is_ok()
        );
        assert_eq!(Uuid::try_parse(&stats.log_id).unwrap().to_string(), stats.log_id);
        names.push((stats.log_id, stats.head_hash));
        played.service.restart().await;
    }
    assert!(names.windows(2).all(|pair| pair[0] == pair[1]), "{names:?}");
    let in_memory = Service::in_memory().await;
    assert!(["memory", engine::name()].contains(&&*in_memory.stats().await.engine));
}

async fn get_saga(client: &Client, saga_id: &str) -> Result<proto::Saga, tonic::Status> {
    let request = GetSagaRequest { saga_id: saga_id.to_owned(), min_position: None };
    client.call(request).await.map(|answer| answer.saga.unwrap())
}

#[tokio::test]
async fn a_saga_is_found_by_its_id_and_by_no_other() {
    // Ids that the server made and ids that callers chose, in either case; the ids of events,
    // accounts and nothing at all are no sagas.
    let mut played = Played::new(20_260_206, 200).await;
    for _ in 0..2 {
        let (service, model) = (&played.service, &played.model);
        for saga in &model.sagas {
            assert_eq!(&get_saga(service, &saga.saga_id).await.unwrap(), saga);
            assert_eq!(&get_saga(service, &saga.saga_id.to_uppercase()).await.unwrap(), saga);
        }
        let known: Vec<&str> = model.sagas.iter().map(|saga| saga.saga_id.as_str()).collect();
        let events = model.log.iter().flat_map(|event| [&event.event_id, &event.account_id]);
        let mut others: Vec<String> = events.cloned().collect();
        others.sort();
        others.dedup();
        others.retain(|id| !known.contains(&id.as_str()));
        others.extend([fresh_id(), Uuid::max().to_string()]);
        for other in others {
            let answer = get_saga(service, &other).await;
            let status = assert_refused(answer, Code::NotFound, "SAGA_NOT_FOUND");
            assert_eq!(metadata(&status)["saga_id"], other);
        }
        played.go_on(30).await;
    }
}

#[tokio::test]
async fn every_read_sees_what_was_answered_before_it() {
    // A command is answered, and the next read, on another connection, knows of it.
    let service = Service::in_memory().await;
    let (id, reader) = (service.opened(0).await, service.another().await);
    for round in 1..=200 {
        let event = service.call(deposit(&id, 1)).await.unwrap().event.unwrap();
        let answer = reader.call(get(&id)).await.unwrap();
        assert_eq!(answer.account.unwrap().balance_minor, round);
        assert!(answer.position >= event.position);
        assert_eq!(reader.stats().await.event_count, event.position);
    }
}

/// Intent: what a damaged log does not show any more is not taken for what never was.
#[tokio::test]
async fn what_may_lie_behind_damage_is_not_denied() {
    let mut service = Service::on_disk().await;
    let (first, second) = (service.opened(1_000).await, service.opened(0).await);
    for amount in 1..=200 {
        service.call(deposit(&first, amount)).await.unwrap();
    }
    let (last, sound) = (service.opened(5).await, service.stats().await);
    let last_time = service.log().await.last().unwrap().event_time.unwrap();
    service.restart_damaged().await;
    let left = service.stats().await;
    assert!((2..sound.position).contains(&left.position), "{}", left.position);
    assert_eq!(left.verified_position, left.position);
    assert!(left.damage.contains(&format!("position {}", left.position + 1)), "{left:?}");
    // What is before it is read.
    let account = service.call(get(&first)).await.unwrap();
    assert_eq!(account.position, left.position);
    assert!(service.call(get(&second)).await.is_ok());
    let beyond = [
        get(&last),
        get(&fresh_id()),
        GetAccountRequest { min_position: Some(sound.position), ..get(&first) },
        GetAccountRequest { as_of: Some(AsOf::AsOfPosition(sound.position)), ..get(&first) },
        GetAccountRequest { as_of: Some(AsOf::AsOfVersion(201)), ..get(&first) },
        GetAccountRequest { as_of: Some(AsOf::AsOfTime(last_time)), ..get(&first) },
    ];
    for request in beyond {
        let status = assert_refused(service.call(request).await, Code::DataLoss, "LOG_DAMAGED");
        assert_eq!(metadata(&status)["position"], (left.position + 1).to_string());
    }
    let before = GetAccountRequest { as_of: Some(AsOf::AsOfVersion(1)), ..get(&first) };
    assert_eq!(service.call(before).await.unwrap().account.unwrap().balance_minor, 1_000);
}
