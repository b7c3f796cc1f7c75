//! The matrix: every method that the server has, and everything that can be shown to it.

use std::collections::BTreeMap;

use daybook::access::{Role, policy};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::json;
use tonic::Code;

use super::{Bank, assert_denied, claims, is_let_in, knock, now};
use crate::issuer::{Issuer, hmac_token, unsigned};

/// Every method of the descriptors that the server is made of, and the least role for it.
fn methods() -> BTreeMap<String, Option<Role>> {
    let sets = [
        daybook::proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
    let mut methods = BTreeMap::new();
    for file in files {
        for service in &file.service {
            for method in &service.method {
                let (package, name) = (file.package(), service.name());
                let least = match name {
                    "CommandService" => Some(Role::Writer),
                    "QueryService" | "ServerReflection" => Some(Role::Reader),
                    "Health" => None,
                    other => panic!("who may call {other}?"),
                };
                methods.insert(format!("/{package}.{name}/{}", method.name()), least);
            }
        }
    }
    assert!(methods.len() >= 19, "{methods:?}");
    methods
}

/// What is nobody's, each as the values of `authorization`.
fn forged(bank: &Bank) -> Vec<(&'static str, Vec<String>)> {
    let issuer = &bank.issuer;
    let with = |key: &str, value: serde_json::Value| {
        let mut claims = claims("admin");
        claims[key] = value;
        claims
    };
    let header = |algorithm: &str| json!({ "alg": algorithm, "kid": "key" });
    let good = claims("admin");
    let hs256 = json!({ "alg": "HS256", "kid": "rsa" });
    let public_key = bank.other_keys[0].jwk()["n"].as_str().unwrap().to_owned();
    let tokens = [
        ("garbage", "garbage".to_owned()),
        ("a hash", daybook::access::hash_of(&bank.admin).unwrap()),
        ("a token that is cut", bank.admin[..bank.admin.len() - 1].to_owned()),
        ("an expired JWT", issuer.token(&with("exp", json!(now() - 61)))),
        ("a JWT for later", issuer.token(&with("nbf", json!(now() + 120)))),
        ("a JWT of another issuer", issuer.token(&with("iss", json!("https://other")))),
        ("a JWT for another audience", issuer.token(&with("aud", json!("other")))),
        ("a JWT of nobody", issuer.token(&claims("nobody"))),
        ("a JWT of another key", Issuer::ec("key").token(&good)),
        ("a JWT of an unknown key", Issuer::ec("other").token(&good)),
        ("a JWT with alg none", unsigned(&header("none"), &good)),
        ("a JWT without signature", unsigned(&header("ES256"), &good)),
        ("a JWT by HS256", hmac_token(&hs256, &good, public_key.as_bytes())),
    ];
    let mut forged: Vec<_> =
        tokens.into_iter().map(|(what, token)| (what, vec![format!("Bearer {token}")])).collect();
    let admin = &bank.admin;
    forged.push(("no scheme", vec![admin.clone()]));
    forged.push(("another scheme", vec![format!("Basic {admin}")]));
    forged.push(("no token", vec!["Bearer ".to_owned()]));
    forged.push(("two at once", vec![format!("Bearer {admin}"), format!("Bearer {admin}")]));
    forged
}

#[tokio::test]
async fn no_method_is_open_to_whoever_shows_nothing_good() {
    let bank = Bank::open().await;
    for (path, least) in methods() {
        // A connection that shows very many forged tokens is not heard for a while.
        let channel = &bank.service.another().await.channel;
        let answer = knock(channel, &path, &[]).await;
        if least.is_none() {
            assert!(is_let_in(&answer), "{path}: {answer:?}");
        } else {
            assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_MISSING", &path);
        }
        for (what, values) in forged(&bank) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let answer = knock(channel, &path, &values).await;
            let what = format!("{path} with {what}");
            if least.is_none() {
                assert!(is_let_in(&answer), "{what}: {answer:?}");
            } else {
                assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", &what);
            }
        }
    }
}

/// Whether an empty message of this method is about no account: of these it is seen later, by their
/// commands or their saga. A method that is new is about all accounts until it is known better.
fn names_no_account(path: &str) -> bool {
    let later = ["/ExecuteBatch", "/ExecuteStream", "/GetSaga", "/ServerReflectionInfo"];
    later.iter().any(|name| path.ends_with(name)) || path.starts_with("/grpc.health.v1.")
}

#[tokio::test]
async fn each_role_may_call_what_is_for_it() {
    // By a token and by a JWT. The limited principal is a writer, and an empty message names none
    // of its accounts.
    let bank = Bank::open().await;
    let channel = &bank.service.channel;
    for (name, token, role) in [
        ("reader", &bank.reader, Role::Reader),
        ("writer", &bank.writer, Role::Writer),
        ("admin", &bank.admin, Role::Admin),
        ("limited", &bank.limited, Role::Writer),
    ] {
        for (path, least) in methods() {
            let of_others = bank.other_keys.iter().map(|issuer| issuer.token(&claims(name)));
            let by_jwt = of_others.chain([bank.issuer.token(&claims(name))]);
            for shown in by_jwt.chain([token.clone()]) {
                let answer = knock(channel, &path, &[&format!("Bearer {shown}")]).await;
                if least.is_some_and(|least| role < least) {
                    assert_denied(answer, Code::PermissionDenied, "ROLE_INSUFFICIENT", &path);
                } else if name == "limited" && !names_no_account(&path) {
                    assert_denied(answer, Code::PermissionDenied, "ACCOUNT_NOT_ALLOWED", &path);
                } else {
                    assert!(is_let_in(&answer), "{path} as {name}: {answer:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_method_that_there_is_not_is_told_only_to_those_who_may_come_in() {
    let bank = Bank::open().await;
    let channel = &bank.service.channel;
    for path in [
        "/daybook.v1.CommandService/PrintMoney",
        "/daybook.v1.QueryService/GetEverything",
        "/daybook.v1.QueryService/getaccount",
        "/daybook.v2.QueryService/GetAccount",
        "/grpc.health.v1.Health/Kill",
        "/other.Service/Method",
    ] {
        assert!(policy::find(path).is_none());
        let answer = knock(channel, path, &[]).await;
        assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_MISSING", path);
        let answer = knock(channel, path, &["Bearer garbage"]).await;
        assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", path);
        for token in [&bank.reader, &bank.admin] {
            let answer = knock(channel, path, &[&format!("Bearer {token}")]).await;
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
        }
    }
}

#[tokio::test]
async fn who_may_not_call_is_told_so_before_anything_else() {
    // The message is larger than any that is read, and no message at all.
    let bank = Bank::open().await;
    let large = crate::service::open(&"x".repeat(5 * 1024 * 1024), 0);
    let answer = bank.service.call(large.clone()).await;
    assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_MISSING", "a large message");
    let answer = bank.call(&bank.reader, large.clone()).await;
    assert_denied(answer, Code::PermissionDenied, "ROLE_INSUFFICIENT", "a large message");
    let answer = bank.call(&bank.writer, large).await;
    assert_eq!(answer.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn without_credentials_everything_is_open() {
    let service = crate::service::Service::in_memory().await;
    for (path, _) in methods() {
        for shown in [&[][..], &["Bearer garbage"], &["Basic x", "Basic y"]] {
            let answer = knock(&service.channel, &path, shown).await;
            assert!(is_let_in(&answer), "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let bank = Bank::open_with(|config| config.reflection = false).await;
    for (path, _) in methods() {
        let shown = format!("Bearer {}", bank.admin);
        let is_there = match knock(&bank.service.channel, &path, &[&shown]).await {
            Ok(()) => true,
            Err(status) => status.code() != Code::Unimplemented,
        };
        assert_eq!(is_there, !path.contains("reflection"), "{path}");
    }
}
