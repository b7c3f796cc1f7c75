//! Who may do what: a bank with a few principals, and everything that others may try.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use daybook::{
    access::{hash_of, new_token},
    ops::config::{Config, JwtConfig},
    proto::{ListAccountEventsRequest, SliceCodec},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery,
    metadata::MetadataValue, transport::Channel,
};

use crate::{
    issuer::{Issuer, jwk_set},
    service::{
        Client, InBatch as _, Rpc, Service, batch_of, deposit, fresh_id, metadata, open, reason,
    },
};

mod accounts;
mod certificates;
mod matrix;
mod quotas;
mod reload;
mod secrets;

/// Who issues the JWTs, and for whom.
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "daybook";
/// How long a stream that was let in may say nothing.
const SILENCE: Duration = Duration::from_millis(100);

/// The files that say who may call.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file as a whole.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            ephemeral: true,
            credentials: Some(self.path("credentials")),
            jwt: Some(JwtConfig {
                keys: self.path("keys"),
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
            }),
            ..Config::default()
        }
    }
}

/// A principal of the credentials file.
fn principal(name: &str, role: &str, token: &str, more: &str) -> String {
    let hash = hash_of(token).unwrap();
    format!(
        "[[principal]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken_sha256 = [\"{hash}\"]\n\
         subject = [\"sub of {name}\"]\n{more}\n"
    )
}

/// A server with a principal of each role, one that is limited to two accounts, and an issuer.
struct Bank {
    service: Service,
    files: Files,
    issuer: Issuer,
    /// The same issuer, with its keys of other kinds.
    other_keys: [Issuer; 2],
    reader: String,
    writer: String,
    admin: String,
    /// A writer that may touch `own` only.
    limited: String,
    /// Accounts of the limited one; both are open.
    own: [String; 2],
    /// An account that is open, and nobody's in particular.
    foreign: String,
}

impl Bank {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(change: impl FnOnce(&mut Config)) -> Self {
        let (files, issuer) = (Files::new(), Issuer::ec("key"));
        let other_keys = [Issuer::rsa("rsa"), Issuer::ed("ed")];
        let token = || new_token().unwrap();
        let (reader, writer, admin, limited) = (token(), token(), token(), token());
        let (own, foreign) = ([fresh_id(), fresh_id()], fresh_id());
        let accounts = format!("accounts = [\"{}\", \"{}\"]", own[0], own[1]);
        let credentials = [
            principal("reader", "reader", &reader, ""),
            principal("writer", "writer", &writer, ""),
            principal("admin", "admin", &admin, ""),
            principal("limited", "writer", &limited, &accounts),
        ];
        files.write("credentials", &credentials.concat());
        files.write("keys", &jwk_set(&[&issuer, &other_keys[0], &other_keys[1]]));
        let mut config = files.config();
        change(&mut config);
        let service = Service::start(config, None).await;
        let bank = Self {
            service,
            files,
            issuer,
            other_keys,
            reader,
            writer,
            admin,
            limited,
            own,
            foreign,
        };
        for id in bank.own.iter().chain([&bank.foreign]) {
            let mut request = open("ada", 1_000);
            request.account_id.clone_from(id);
            bank.call(&bank.admin, request).await.unwrap();
        }
        bank
    }

    async fn call<R: Rpc>(&self, token: &str, request: R) -> Result<R::Response, Status> {
        call(&self.service, token, request).await
    }
}

/// Calls an rpc with a token.
async fn call<R: Rpc>(client: &Client, token: &str, request: R) -> Result<R::Response, Status> {
    R::call(client.clone(), bearing(token, request)).await.map(Response::into_inner)
}

/// A request with a token.
fn bearing<R>(token: &str, request: R) -> Request<R> {
    let mut request = Request::new(request);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Claims that are right, for a principal with this name.
fn claims(name: &str) -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "sub": format!("sub of {name}"), "exp": now() + 600,
        "nbf": now(),
    })
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the issuer has a clock of its own")]
fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// Calls whatever has this path with an empty message, and tells what the answer begins with: OK
/// also for a stream that goes on.
async fn knock(channel: &Channel, path: &str, authorization: &[&str]) -> Result<(), Status> {
    let mut request = Request::new(());
    for value in authorization {
        let value = MetadataValue::try_from(*value).unwrap();
        request.metadata_mut().append("authorization", value);
    }
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(path.to_owned()).unwrap();
    let codec = SliceCodec::<(), ()>::default();
    let answer: Response<Streaming<()>> = client.server_streaming(request, path, codec).await?;
    match timeout(SILENCE, answer.into_inner().message()).await {
        Ok(message) => message.map(drop),
        Err(_still_open) => Ok(()),
    }
}

/// That a call was not let in, with this code and reason.
#[track_caller]
fn assert_denied<T>(answer: Result<T, Status>, code: Code, why: &str, what: &str) {
    let Err(status) = answer else { panic!("{what} was let in") };
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{what}: {status:?}");
    // What it adds could only tell of what the caller must not know.
    assert!(metadata(&status).is_empty(), "{what}: {status:?}");
}

fn is_let_in(answer: &Result<(), Status>) -> bool {
    match answer {
        Ok(()) => true,
        Err(status) => !matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied),
    }
}

#[tokio::test]
async fn an_event_bears_the_name_of_whoever_caused_it() {
    // Whoever reads it, and however the command came in.
    let bank = Bank::open().await;
    let opened = bank.call(&bank.writer, open("ada", 7)).await.unwrap();
    assert_eq!(opened.event.unwrap().principal, "writer");
    let id = opened.account_id;
    let given = bank.call(&bank.admin, deposit(&id, 5)).await.unwrap();
    assert_eq!(given.event.unwrap().principal, "admin");
    let batch = batch_of(vec![deposit(&id, 1).in_batch()]);
    assert_eq!(bank.call(&bank.writer, batch).await.unwrap().accepted_count, 1);
    let request = ListAccountEventsRequest { account_id: id, ..Default::default() };
    let events = bank.call(&bank.reader, request).await.unwrap().events;
    let names: Vec<_> = events.iter().map(|event| event.principal.as_str()).collect();
    assert_eq!(names, ["writer", "admin", "writer"]);
}
