//! What the file may say, what is wrong with it, and who is known by it.

use super::*;
use crate::access::hash_of;

const LIMITS: Limits = Limits { calls: 1, rate: 0, tails: 1 };
const ACCOUNT: &str = "a11ce000-0000-4000-8000-000000000001";

fn parse(text: &str) -> Result<Credentials, Wrong> {
    Credentials::parse(text, &Credentials::default(), LIMITS)
}

/// A principal with these further lines.
fn table(name: &str, role: &str, lines: &str) -> String {
    format!("[[principal]]\nname = \"{name}\"\nrole = \"{role}\"\n{lines}\n")
}

fn with_token(name: &str, role: &str, token: &str) -> String {
    let hash = hash_of(token).unwrap();
    table(name, role, &format!("token_sha256 = [\"{hash}\"]"))
}

fn complaint(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_principal_is_known_by_its_tokens_names_and_subjects() {
    let (one, two) = (hash_of("one").unwrap(), hash_of("two").unwrap());
    let lines = format!(
        "token_sha256 = [\"{one}\", \"{}\"]\ncertificate = [\"Till.example\", \
         \"spiffe://bank/till\"]\nsubject = [\"till|7\"]\naccounts = [\"{ACCOUNT}\"]",
        two.to_uppercase()
    );
    let text = table("till", "writer", &lines) + &with_token("ops", "admin", "three");
    let credentials = parse(&text).unwrap();
    assert_eq!(credentials.len(), 2);
    for token in ["one", "two"] {
        let till = credentials.by_token(&TokenHash::of(token)).unwrap();
        assert_eq!((till.principal().as_str(), till.role()), ("till", Role::Writer));
        assert!(till.is_limited());
        assert!(till.may_touch(AccountId::parse(ACCOUNT).unwrap()));
        assert!(!till.may_touch(AccountId::new(uuid::Uuid::now_v7())));
    }
    let ops = credentials.by_token(&TokenHash::of("three")).unwrap();
    assert_eq!((ops.principal().as_str(), ops.role()), ("ops", Role::Admin));
    assert!(!ops.is_limited() && ops.may_touch(AccountId::parse(ACCOUNT).unwrap()));
    assert_eq!(credentials.by_subject("till|7").unwrap().principal().as_str(), "till");
    for stranger in ["", "four", "One", "one ", &one] {
        assert!(credentials.by_token(&TokenHash::of(stranger)).is_none(), "{stranger}");
        assert!(credentials.by_subject(stranger).is_none(), "{stranger}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let hash = hash_of("one").unwrap();
    let good = with_token("till", "writer", "one");
    let after = |more: &str| format!("{good}{more}");
    let own = "token_sha256 = []\nsubject = [\"a\"]";
    for (text, told) in [
        (String::new(), "there is no [[principal]] in it"),
        ("# nothing\n".into(), "there is no [[principal]] in it"),
        ("[[principal]]\nrole = \"reader\"".into(), "line 1: name is missing"),
        (after("[[principal]]\nname = \"b\""), "line 5: role is missing"),
        (after("[[principal]]\nname = 7"), "line 6: name must be a text"),
        (after(&table("", "reader", own)), "line 6: name must not be empty"),
        (after(&table(&"x".repeat(129), "reader", own)), "line 6: name must have at most 128"),
        (after(&table("a\\u0007", "reader", own)), "line 6: name must not contain control"),
        (after(&table("till", "reader", own)), "line 6: name is that of an earlier principal"),
        (after(&table("b", "root", own)), "line 7: role must be \"reader\", \"writer\" or"),
        (after(&table("b", "Reader", own)), "line 7: role must be"),
        (after(&table("b", "reader", "")), "line 5: the principal has no token_sha256, no"),
        (after(&table("b", "reader", "token_sha256 = []")), "line 5: the principal has no"),
        (after(&table("b", "reader", "token_sha256 = \"x\"")), "line 8: token_sha256 must be a"),
        (after(&table("b", "reader", "token_sha256 = [7]")), "line 8: token_sha256[0] must be a"),
        (after(&table("b", "reader", "token_sha256 = [\"12\"]")), "line 8: token_sha256[0] must"),
        (after(&with_token("b", "reader", "one")), "line 5: a token_sha256 is that of an earlier"),
        (
            after(&table("b", "reader", &format!("token_sha256 = [\"{hash}\", \"{hash}\"]"))),
            "line 8: token_sha256[1] is there twice",
        ),
        (after(&table("b", "reader", "certificate = [\"\"]")), "line 8: certificate[0] must not"),
        (after(&table("b", "reader", "subject = [\"a\\n\"]")), "line 8: subject[0] must not"),
        (after(&table("b", "admin", &format!("{own}\naccounts = [\"{ACCOUNT}\"]"))), "line 10: "),
        (after(&table("b", "reader", &format!("{own}\naccounts = []"))), "line 10: accounts must"),
        (after(&table("b", "reader", "accounts = [\"x\"]")), "line 8: accounts[0] must be the id"),
        (after(&table("b", "reader", "colour = 1")), "line 8: unknown field `colour`, expected"),
        (after("[principals]"), "line 5: unknown field `principals`, expected `principal`"),
        (after("[[principal]]\nname = \"b\"\nname = \"c\""), "line 7: duplicate key"),
        ("principal = \"s3cret\"".into(), "line 1: it is not TOML of the form that is expected"),
        ("s3cret".into(), "line 1: it is not TOML of the form that is expected"),
    ] {
        let complaint = complaint(&text);
        assert!(complaint.starts_with(told), "{told}: {complaint}\n{text}");
    }
}

#[test]
fn nothing_that_the_file_says_is_repeated() {
    let secret = "daybook_s3cret";
    for lines in [
        format!("token_sha256 = [\"{secret}\"]"),
        format!("token_sha256 = \"{secret}\""),
        format!("certificate = [[\"{secret}\"]]"),
        format!("subject = {secret}"),
        format!("accounts = [\"{secret}\"]"),
        format!("\"{secret}"),
        format!("token_sha256 = [\"{secret}"),
    ] {
        let complaint = complaint(&table("a", "reader", &lines));
        assert!(!complaint.contains("s3cret"), "{complaint}");
    }
    for text in [format!("principal = \"{secret}\""), format!("principal = [\"{secret}\"]")] {
        assert!(!complaint(&text).contains("s3cret"));
    }
    assert!(!complaint(&table("a", secret, "")).contains("s3cret"));
}

#[test]
fn there_is_a_limit_to_tokens() {
    let hashes = |count: usize| {
        let hashes = (0..count).map(|number| format!("\"{number:064x}\"")).collect::<Vec<_>>();
        table("a", "reader", &format!("token_sha256 = [{}]", hashes.join(",")))
    };
    assert!(parse(&hashes(TOKENS_MAX)).is_ok());
    let told = "line 1: there are more than 1024 token_sha256 in all";
    assert_eq!(complaint(&hashes(TOKENS_MAX + 1)), told);
}

#[test]
fn names_of_certificates_are_compared_as_what_they_are() {
    let names = |ders: &[&str]| {
        let certificates = ders.iter().map(|der| format!("\"{der}\"")).collect::<Vec<_>>();
        table("a", "reader", &format!("certificate = [{}]", certificates.join(",")))
    };
    let twice = names(&["a.example", "A.EXAMPLE"]);
    assert!(complaint(&twice).contains("certificate[1] is there twice"));
    assert!(parse(&names(&["spiffe://a/B", "spiffe://a/b"])).is_ok(), "URIs are not");
}

#[tokio::test]
async fn what_is_taken_from_a_principal_ends_what_it_has_open() {
    let (till, ops) = (with_token("till", "writer", "one"), with_token("ops", "admin", "two"));
    let before = parse(&(till.clone() + &ops)).unwrap();
    let is_revoked = |caller: &Caller| {
        let mut revoked = std::pin::pin!(caller.revoked());
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        revoked.as_mut().poll(&mut context).is_ready()
    };
    let more = format!("{}\nsubject = [\"s\"]\n{ops}", till.trim_end());
    let again = Credentials::parse(&more, &before, LIMITS).unwrap();
    before.revoke_all_but(&again);
    let old = before.by_token(&TokenHash::of("one")).unwrap().clone();
    assert!(!is_revoked(&old), "one that is known by more stays");

    let place = old.begin(crate::access::policy::Kind::Call).unwrap();
    let other = with_token("till", "writer", "three");
    let after = Credentials::parse(&(other + &ops), &again, LIMITS).unwrap();
    again.revoke_all_but(&after);
    assert!(is_revoked(&old), "its token was taken away");
    assert!(!is_revoked(before.by_token(&TokenHash::of("two")).unwrap()));
    assert!(after.by_token(&TokenHash::of("one")).is_none());
    let new = after.by_token(&TokenHash::of("three")).unwrap();
    assert!(!is_revoked(new));
    assert!(new.begin(crate::access::policy::Kind::Call).is_err(), "what is open counts on");
    drop(place);
    assert!(new.begin(crate::access::policy::Kind::Call).is_ok());

    let gone = Credentials::parse(&ops, &after, LIMITS).unwrap();
    after.revoke_all_but(&gone);
    assert!(is_revoked(new));
}
