//! Who is let in, by what is shown, and what happens when the files change.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    access::{
        hash_of,
        issuer::{Issuer, jwk_set},
    },
    ops::ManualClock,
};

const NOW: i64 = 1_800_000_000;

struct Files {
    directory: TempDir,
    clock: Arc<ManualClock>,
}

impl Files {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOW * 1_000_000));
        Self { directory: tempfile::tempdir().unwrap(), clock }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self, with_jwt: bool) -> Result<Option<Gate>, LoadError> {
        let jwt = JwtConfig {
            keys: self.path("keys"),
            issuer: "https://issuer".into(),
            audience: "daybook".into(),
        };
        let config = Config {
            credentials: Some(self.path("credentials")),
            jwt: with_jwt.then_some(jwt),
            ..Config::default()
        };
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        Gate::load(&config, clock)
    }
}

fn principal(name: &str, token: &str, more: &str) -> String {
    let hash = hash_of(token).unwrap();
    let table = format!("[[principal]]\nname = \"{name}\"\nrole = \"reader\"\n{more}\n");
    format!("{table}token_sha256 = [\"{hash}\"]\n")
}

fn claims(sub: &str, exp: i64) -> Value {
    json!({ "iss": "https://issuer", "aud": "daybook", "sub": sub, "exp": exp })
}

fn name_of(identity: Result<Identity, Denial>) -> Result<String, Denied> {
    let name = identity.map(|identity| identity.caller.principal().as_str().to_owned());
    name.map_err(|denial| denial.why)
}

fn shown(gate: &Gate, authorization: &str) -> Result<String, Denied> {
    name_of(gate.identify(Some(authorization.as_bytes()), None, None))
}

#[test]
fn without_a_file_there_is_no_gate() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
    assert!(Gate::load(&Config::default(), clock).unwrap().is_none());
}

#[test]
fn a_token_is_shown_as_bearer() {
    let files = Files::new();
    files.write("credentials", &principal("till", "s3cret", ""));
    let gate = files.load(false).unwrap().unwrap();
    let till = || Ok("till".to_owned());
    for good in ["Bearer s3cret", "bearer s3cret", "BEARER s3cret", "Bearer   s3cret"] {
        assert_eq!(shown(&gate, good), till(), "{good}");
    }
    for bad in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "s3cret",
        "Basic s3cret",
        "Bearers3cret",
        "Bearer\ts3cret",
        "Bearer s3cret ",
        "Bearer s3cret x",
        "Bearer s3cret,Bearer s3cret",
        "Bearer S3cret",
        "Bearer s3cre",
        "Bearer s3crets",
        " Bearer s3cret",
        "Token s3cret",
    ] {
        assert_eq!(shown(&gate, bad), Err(Denied::Invalid), "{bad:?}");
    }
    let not_text = gate.identify(Some(b"Bearer \xff"), None, None);
    assert_eq!(name_of(not_text), Err(Denied::Invalid));
    assert_eq!(name_of(gate.identify(None, None, None)), Err(Denied::Missing));
    let hash = hash_of("s3cret").unwrap();
    assert_eq!(shown(&gate, &format!("Bearer {hash}")), Err(Denied::Invalid), "not the hash");
}

#[test]
fn a_token_counts_more_than_a_certificate() {
    let files = Files::new();
    let text = principal("till", "one", "certificate = [\"spiffe://bank/till\"]")
        + &principal("ops", "two", "certificate = [\"ops.example\"]");
    files.write("credentials", &text);
    let gate = files.load(false).unwrap().unwrap();
    let names = CertificateNames::of(&crate::access::certificate::tests::der("san"));
    let show = |authorization: Option<&str>| {
        name_of(gate.identify(authorization.map(str::as_bytes), Some(&names), None))
    };
    assert_eq!(show(None), Ok("till".into()));
    assert_eq!(show(Some("Bearer two")), Ok("ops".into()));
    assert_eq!(show(Some("Bearer three")), Err(Denied::Invalid));
    let nobody = CertificateNames::default();
    assert_eq!(name_of(gate.identify(None, Some(&nobody), None)), Err(Denied::Invalid));
}

#[test]
fn a_jwt_is_that_of_a_principal_until_it_expires() {
    let files = Files::new();
    let issuer = Issuer::ec("key");
    files.write("credentials", &principal("till", "s3cret", "subject = [\"auth0|7\"]"));
    files.write("keys", &jwk_set(&[&issuer]));
    let claims = |sub: &str| claims(sub, NOW + 10);
    let good = format!("Bearer {}", issuer.token(&claims("auth0|7")));
    let without = files.load(false).unwrap().unwrap();
    assert_eq!(shown(&without, &good), Err(Denied::Invalid), "JWTs were not configured");

    let gate = files.load(true).unwrap().unwrap();
    assert_eq!(shown(&gate, &good), Ok("till".into()));
    assert_eq!(shown(&gate, "Bearer s3cret"), Ok("till".into()));
    let identity = gate.identify(Some(good.as_bytes()), None, None).unwrap();
    assert_eq!(identity.expires_in, Some(Duration::from_secs(70)));
    let stranger = format!("Bearer {}", issuer.token(&claims("auth0|8")));
    assert_eq!(shown(&gate, &stranger), Err(Denied::Invalid));
    // It is known now, and its end as well.
    assert_eq!(shown(&gate, &good), Ok("till".into()));
    files.clock.advance(Duration::from_secs(69));
    assert_eq!(shown(&gate, &good), Ok("till".into()));
    files.clock.advance(Duration::from_secs(1));
    assert_eq!(shown(&gate, &good), Err(Denied::Invalid));
}

#[test]
fn a_connection_forges_only_so_many_tokens_a_second() {
    let files = Files::new();
    let issuer = Issuer::ec("key");
    files.write("credentials", &principal("till", "s3cret", "subject = [\"auth0|7\"]"));
    files.write("keys", &jwk_set(&[&issuer]));
    let gate = files.load(true).unwrap().unwrap();
    let token = |subject: &str| issuer.token(&claims(subject, NOW + 10));
    let (known, other) = (token("auth0|7"), token("auth0|8"));
    let attempts = Attempts::default();
    let show = |token: &str| {
        let shown = format!("Bearer {token}");
        name_of(gate.identify(Some(shown.as_bytes()), None, Some(&attempts)))
    };
    assert_eq!(show(&known), Ok("till".into()));
    let (begin, end) = other.split_at(other.len() - 20);
    let forged = |number: usize| show(&format!("{begin}{number:04}{}", &end[4..]));
    let looked_at = (0..1_000).take_while(|number| forged(*number) == Err(Denied::Invalid));
    // Some more of a slow machine, which has as much more time.
    assert!((100..1_000).contains(&looked_at.count()));
    assert_eq!(show(&known), Ok("till".into()), "nothing has to be looked at");
    assert_eq!(show("s3cret"), Ok("till".into()));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(show(&other), Err(Denied::Invalid), "it is looked at again: signed, and nobody's");
}

#[test]
fn the_audit_is_told_what_was_wrong() {
    let files = Files::new();
    let issuer = Issuer::ec("key");
    files.write("credentials", &principal("till", "s3cret", "subject = [\"auth0|7\"]"));
    files.write("keys", &jwk_set(&[&issuer]));
    let gate = files.load(true).unwrap().unwrap();
    let with = |key: &str, value: Value| {
        let mut claims = claims("auth0|7", NOW + 10);
        claims[key] = value;
        issuer.token(&claims)
    };
    for (token, cause) in [
        ("nobody".to_owned(), "unknown"),
        (with("exp", json!(NOW - 61)), "expired"),
        (with("nbf", json!(NOW + 62)), "early"),
        (with("iss", json!("https://other")), "issuer"),
        (with("aud", json!("other")), "audience"),
        (with("sub", json!("auth0|8")), "subject"),
        (with("exp", json!("soon")), "claims"),
        (Issuer::ec("key").token(&claims("auth0|7", NOW + 10)), "signature"),
        (Issuer::ec("other").token(&claims("auth0|7", NOW + 10)), "key"),
        (Issuer::ed("key").token(&claims("auth0|7", NOW + 10)), "algorithm"),
    ] {
        let shown = format!("Bearer {token}");
        let denial = gate.identify(Some(shown.as_bytes()), None, None).unwrap_err();
        assert_eq!(denial, Denial { why: Denied::Invalid, cause: Some(cause) });
    }
}

#[test]
fn a_certificate_ends_when_it_says() {
    let files = Files::new();
    files.write("credentials", &principal("till", "one", "certificate = [\"till.example\"]"));
    let gate = files.load(false).unwrap().unwrap();
    let names = CertificateNames::of(&crate::access::certificate::tests::der("san"));
    // The third of November 2126, 00:40:42.
    let left = u64::try_from(4_949_340_042 + 1 - NOW).unwrap();
    let identity = gate.identify(None, Some(&names), None).unwrap();
    assert_eq!(identity.expires_in, Some(Duration::from_secs(left)));
    files.clock.advance(Duration::from_secs(left - 1));
    assert_eq!(name_of(gate.identify(None, Some(&names), None)), Ok("till".into()));
    files.clock.advance(Duration::from_secs(1));
    assert_eq!(name_of(gate.identify(None, Some(&names), None)), Err(Denied::Invalid));
}

#[test]
fn both_files_are_taken_or_none() {
    let files = Files::new();
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let text = principal("till", "one", "subject = [\"s\"]");
    files.write("credentials", &text);
    files.write("keys", &jwk_set(&[&old]));
    let gate = files.load(true).unwrap().unwrap();
    let claims = claims("s", NOW + 10);
    let by = |issuer: &Issuer| format!("Bearer {}", issuer.token(&claims));

    files.write("credentials", &principal("other", "two", "subject = [\"s\"]"));
    files.write("keys", "{ half of i");
    let error = gate.reload().unwrap_err().to_string();
    assert!(error.starts_with("jwt_keys: the file ") && !error.contains("half"), "{error}");
    assert_eq!(shown(&gate, "Bearer one"), Ok("till".into()));
    assert_eq!(shown(&gate, "Bearer two"), Err(Denied::Invalid));

    files.write("keys", &jwk_set(&[&new]));
    assert_eq!(gate.reload().unwrap(), (1, 1));
    assert_eq!(shown(&gate, "Bearer one"), Err(Denied::Invalid));
    assert_eq!(shown(&gate, "Bearer two"), Ok("other".into()));
    assert_eq!(shown(&gate, &by(&old)), Err(Denied::Invalid));
    assert_eq!(shown(&gate, &by(&new)), Ok("other".into()));

    fs::remove_file(files.path("credentials")).unwrap();
    assert!(matches!(gate.reload(), Err(LoadError::Unreadable { .. })));
    assert_eq!(shown(&gate, "Bearer two"), Ok("other".into()));
}

#[test]
fn a_file_that_is_not_right_stops_the_start() {
    let files = Files::new();
    assert!(matches!(files.load(false), Err(LoadError::Unreadable { .. })));
    files.write("credentials", "");
    assert!(matches!(files.load(false), Err(LoadError::Wrong { .. })));
    files.write("credentials", &principal("till", "one", ""));
    assert!(files.load(false).is_ok());
    assert!(matches!(files.load(true), Err(LoadError::Unreadable { .. })), "there are no keys");
    let open = fs::Permissions::from_mode(0o640);
    fs::set_permissions(Path::new(&files.path("credentials")), open).unwrap();
    assert!(matches!(files.load(false), Err(LoadError::Mode { mode: 0o640, .. })));
}

proptest! {
    /// Nothing that a stranger can show makes it panic, or lets anybody in.
    #[test]
    fn no_stranger_comes_in(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header in "\\{(\"alg\":\"(ES256|EdDSA|HS256|none)\",)?\"kid\":\"k?\"(,\"crit\":\\[\\])?\\}",
        payload in any::<String>(),
        signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        static GATE: LazyLock<Gate> = LazyLock::new(|| {
            let (files, issuer) = (Files::new(), Issuer::ec("k"));
            files.write("credentials", &principal("till", "s3cret", "subject = [\"s\"]"));
            files.write("keys", &jwk_set(&[&issuer]));
            files.load(true).unwrap().unwrap()
        });
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let (header, payload) = (encode(header.as_bytes()), encode(payload.as_bytes()));
        let jwt = format!("Bearer {header}.{payload}.{}", encode(&signature));
        let bearer = [b"Bearer ", bytes.as_slice()].concat();
        let names = CertificateNames::of(&bytes);
        for shown in [bytes.as_slice(), &bearer, jwt.as_bytes()] {
            prop_assert_eq!(name_of(GATE.identify(Some(shown), None, None)), Err(Denied::Invalid));
        }
        prop_assert_eq!(name_of(GATE.identify(None, Some(&names), None)), Err(Denied::Invalid));
    }
}
