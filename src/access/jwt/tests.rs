//! Which tokens are believed, and which keys are taken.

use serde_json::{Value, json};

use super::*;
use crate::access::issuer::{Issuer, hmac_token, jwk_set, unsigned};

fn encode(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
}

const NOW: i64 = 1_800_000_000;

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "daybook", "sub": "till", "exp": NOW + 100 })
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn without(key: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

/// Whose a token is, and after how long not any more.
fn verify(keys: &JwtKeys, token: &str) -> Option<(String, Duration)> {
    let claimed = claimed(keys, token)?;
    let left = u64::try_from(claimed.ends - NOW).expect("it may be believed now");
    Some((claimed.subject.to_string(), Duration::from_secs(left)))
}

fn claimed(keys: &JwtKeys, token: &str) -> Option<Claimed> {
    keys.of_token(token).ok()?.verify(token, "https://issuer", "daybook", NOW).ok()
}

fn parse(text: &str) -> Result<JwtKeys, Wrong> {
    JwtKeys::parse(text, None)
}

fn keys(issuers: &[&Issuer]) -> JwtKeys {
    parse(&jwk_set(issuers)).unwrap()
}

#[test]
fn a_token_of_each_kind_of_key_is_believed() {
    let (rsa, ec, ed) = (Issuer::rsa("r"), Issuer::ec("e"), Issuer::ed("d"));
    let keys = keys(&[&rsa, &ec, &ed]);
    assert_eq!(keys.len(), 3);
    for issuer in [&rsa, &ec, &ed] {
        let claimed = verify(&keys, &issuer.token(&claims())).unwrap();
        // To its end, and the leeway of a minute.
        let expires_in = Duration::from_secs(160);
        assert_eq!(claimed, ("till".to_owned(), expires_in));
    }
    let header = json!({ "alg": "PS256", "kid": "r", "typ": "at+jwt" });
    assert!(verify(&keys, &rsa.with_header(&header, &claims())).is_some());
}

#[test]
fn a_token_is_for_one_issuer_one_audience_and_a_while() {
    let issuer = Issuer::ed("d");
    let keys = keys(&[&issuer]);
    for (claims, is_good) in [
        (claims(), true),
        (with("aud", json!(["other", "daybook"])), true),
        (with("aud", json!(["other"])), false),
        (with("aud", json!("Daybook")), false),
        (with("aud", json!([])), false),
        (without("aud"), false),
        (with("iss", json!("https://issuer/")), false),
        (with("iss", json!("")), false),
        (with("iss", json!(7)), false),
        (without("iss"), false),
        (without("sub"), false),
        (with("sub", json!(7)), false),
        (with("sub", json!(["till"])), false),
        (without("exp"), false),
        (with("exp", json!(NOW - 59)), true),
        (with("exp", json!(NOW - 60)), false),
        (with("exp", json!(0)), false),
        (with("exp", json!(-1)), false),
        (with("exp", json!(i64::MIN)), false),
        (with("exp", json!(u64::MAX)), false),
        (with("exp", json!(i64::MAX)), false),
        (with("exp", json!("1900000000")), false),
        (with("exp", json!(1.9e9)), false),
        (with("nbf", json!(NOW + 60)), true),
        (with("nbf", json!(NOW + 61)), false),
        (with("nbf", json!(i64::MAX)), false),
        (with("nbf", json!("soon")), false),
        (with("nbf", json!(NOW - 1_000)), true),
    ] {
        assert_eq!(verify(&keys, &issuer.token(&claims)).is_some(), is_good, "{claims}");
    }
}

#[test]
fn the_key_says_which_algorithm_may_be_used() {
    let (rsa, ec, ed) = (Issuer::rsa("r"), Issuer::ec("e"), Issuer::ed("d"));
    let keys = keys(&[&rsa, &ec, &ed]);
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let set = jwk_set(&[&rsa]);
    for algorithm in ["HS256", "HS384", "HS512"] {
        for id in ["r", "e", "d"] {
            let header = json!({ "alg": algorithm, "kid": id });
            for secret in [public.as_bytes(), set.as_bytes(), b"".as_slice()] {
                let token = hmac_token(&header, &claims(), secret);
                assert_eq!(verify(&keys, &token), None, "{header}");
            }
        }
    }
    for algorithm in ["none", "None", "NONE", "", "RS256", "ES256", "EdDSA"] {
        let token = unsigned(&json!({ "alg": algorithm, "kid": "r" }), &claims());
        assert_eq!(verify(&keys, &token), None, "{algorithm}");
    }
    for (issuer, id, algorithm) in [
        (&rsa, "r", "RS384"),
        (&rsa, "r", "RS512"),
        (&rsa, "r", "PS512"),
        (&rsa, "r", "ES256"),
        (&ec, "e", "ES384"),
        (&ec, "e", "RS256"),
        (&ed, "d", "ES256"),
        // Signed with another key than the one that it names.
        (&rsa, "e", "RS256"),
        (&ec, "d", "ES256"),
        (&ed, "e", "EdDSA"),
    ] {
        let header = json!({ "alg": algorithm, "kid": id });
        let token = issuer.with_header(&header, &claims());
        assert_eq!(verify(&keys, &token), None, "{header}");
    }
}

#[test]
fn a_key_may_allow_one_algorithm_only() {
    let rsa = Issuer::rsa("r");
    let mut jwk = rsa.jwk();
    jwk["alg"] = json!("PS256");
    let keys = parse(&json!({ "keys": [jwk] }).to_string()).unwrap();
    assert_eq!(verify(&keys, &rsa.token(&claims())), None);
    let token = rsa.with_header(&json!({ "alg": "PS256", "kid": "r" }), &claims());
    assert!(verify(&keys, &token).is_some());
}

#[test]
fn a_token_names_a_key_of_the_file() {
    let (one, other) = (Issuer::ec("one"), Issuer::ec("other"));
    let nameless = json!({ "alg": "ES256" });
    assert_eq!(verify(&keys(&[&one]), &other.token(&claims())), None, "an unknown key");
    assert!(verify(&keys(&[&one]), &one.with_header(&nameless, &claims())).is_some());
    let two = keys(&[&one, &other]);
    assert_eq!(verify(&two, &one.with_header(&nameless, &claims())), None, "which one?");
    assert!(verify(&two, &other.token(&claims())).is_some());
    // The key that a token brings along counts for nothing.
    let stranger = Issuer::ec("one");
    let header = json!({ "alg": "ES256", "kid": "one", "jwk": stranger.jwk() });
    assert_eq!(verify(&two, &stranger.with_header(&header, &claims())), None);
}

#[test]
fn a_token_that_was_changed_is_not_believed() {
    let issuer = Issuer::ed("d");
    let keys = keys(&[&issuer]);
    let token = issuer.token(&claims());
    assert!(verify(&keys, &token).is_some());
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(verify(&keys, &changed), None, "character {index}");
    }
    let parts: Vec<_> = token.split('.').collect();
    for garbage in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        parts[0],
        &format!("{}.{}", parts[0], parts[1]),
        &format!("{}.{}.", parts[0], parts[1]),
        &format!("{token}."),
        &format!(".{token}"),
        &format!("{token}.{}", parts[2]),
        &format!("{token}="),
        &token[1..],
    ] {
        assert_eq!(verify(&keys, garbage), None, "{garbage}");
    }
    let header = json!({ "alg": "EdDSA", "kid": "d", "crit": ["b64"], "b64": false });
    assert_eq!(verify(&keys, &issuer.with_header(&header, &claims())), None, "not understood");
}

#[test]
fn keys_that_must_not_be_used_are_refused() {
    let good = Issuer::ec("good").jwk();
    let secret = json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0" });
    let short = encode(&[0xff; 255]);
    let rsa = |n: &str| json!({ "kty": "RSA", "kid": "r", "n": n, "e": "AQAB" });
    let zeros = encode(&[[0; 255], [0xff; 255]].concat());
    let long = encode(&[0xff; 1_025]);
    let nameless = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&[7; 32]) });
    let cut = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "c", "x": "AAAA" });
    let many = vec![good.clone(); KEYS_MAX + 1];
    for (set, told) in [
        (json!({ "keys": [good, secret] }), "keys[1] is a secret (kty oct)"),
        (json!({ "keys": [rsa(&short)] }), "keys[0] is an RSA key of less than 2048 bits"),
        (json!({ "keys": [rsa(&zeros)] }), "keys[0] is an RSA key of less than 2048 bits"),
        (json!({ "keys": [rsa(&long)] }), "keys[0] is an RSA key of more than 8192 bits"),
        (json!({ "keys": [rsa("%")] }), "keys[0] is not encoded as base64url"),
        (json!({ "keys": [cut] }), "keys[0] has not the size of its kind"),
        (json!({ "keys": [good, good] }), "keys[1] has the kid of an earlier key"),
        (json!({ "keys": [good, nameless] }), "of several keys each must have a kid"),
        (json!({ "keys": many }), "there are more than 256 keys"),
        (json!({ "keys": [] }), "there is no key for RS256, PS256, ES256 or EdDSA in it"),
        (json!({}), "line 1: it is not a set of JSON web keys"),
        (json!("keys"), "line 1: it is not a set of JSON web keys"),
    ] {
        let wrong = parse(&set.to_string()).unwrap_err().to_string();
        assert!(wrong.starts_with(told), "{told}: {wrong}");
    }
    assert!(parse("").is_err() && parse("{\n").is_err());
}

#[test]
fn keys_for_something_else_are_passed_over() {
    let issuer = Issuer::ec("good");
    let change = |key: &str, value: Value| {
        let mut jwk = Issuer::ec(key).jwk();
        jwk[key] = value;
        jwk
    };
    let set = json!({ "keys": [
        change("use", json!("enc")),
        change("key_ops", json!(["deriveKey"])),
        change("alg", json!("ES512")),
        { "kty": "EC", "crv": "P-384", "kid": "p", "x": "AAAA", "y": "AAAA" },
        { "kty": "future", "kid": "f" },
        issuer.jwk(),
    ] });
    let keys = parse(&set.to_string()).unwrap();
    assert_eq!(keys.len(), 1);
    assert!(verify(&keys, &issuer.token(&claims())).is_some());
}

/// Whether what this token opens has to end once the file says `after` in place of `before`.
fn ends(before: &[Value], after: &[Value], token: &str) -> bool {
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    let before = parse(&set(before)).unwrap();
    let key = claimed(&before, token).unwrap().key;
    let is_over = || {
        let mut ended = std::pin::pin!(key.ended());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        ended.as_mut().poll(&mut context).is_ready()
    };
    let after = JwtKeys::parse(&set(after), Some(&before)).unwrap();
    assert!(!is_over(), "not before it counts");
    before.revoke_all_but(&after);
    // What is the same is the same still when the file is read once more.
    let again = JwtKeys::parse(&set(&[Issuer::ec("last").jwk()]), Some(&after)).unwrap();
    let was_over = is_over();
    after.revoke_all_but(&again);
    assert!(is_over(), "in the end none of them is there");
    was_over
}

#[tokio::test]
async fn what_a_key_has_let_in_ends_when_the_key_goes() {
    let (own, other) = (Issuer::ec("k"), Issuer::ec("other"));
    let (rsa, ed) = (Issuer::rsa("k"), Issuer::ed("k"));
    let token = own.token(&claims());
    let stays = |after: &[Value]| !ends(&[own.jwk()], after, &token);
    assert!(stays(&[own.jwk()]));
    assert!(stays(&[other.jwk(), own.jwk()]), "others may come");
    assert!(!stays(&[other.jwk()]), "it was taken away");
    for under_its_name in [Issuer::ec("k"), Issuer::rsa("k"), Issuer::ed("k")] {
        assert!(!stays(&[under_its_name.jwk()]));
    }
    let mut renamed = own.jwk();
    renamed["kid"] = json!("other");
    assert!(!stays(&[renamed]));

    let with = |key: &str, value: &str| {
        let mut jwk = rsa.jwk();
        jwk[key] = json!(value);
        jwk
    };
    let token = rsa.token(&claims());
    assert!(!ends(&[rsa.jwk()], &[rsa.jwk()], &token));
    assert!(!ends(&[with("alg", "RS256")], &[rsa.jwk()], &token), "it verifies more");
    assert!(ends(&[rsa.jwk()], &[with("alg", "PS256")], &token), "it verifies less");
    assert!(ends(&[rsa.jwk()], &[with("e", "Aw")], &token), "another exponent");
    assert!(ends(&[rsa.jwk()], &[with("use", "enc"), other.jwk()], &token), "another purpose");
    let token = ed.token(&claims());
    assert!(!ends(&[ed.jwk()], &[ed.jwk()], &token));
    assert!(ends(&[ed.jwk()], &[rsa.jwk()], &token));
}
