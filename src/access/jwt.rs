//! JWTs: bearer tokens that an issuer has signed.
//!
//! The library parses and checks claims; signatures are ring's, so that there is one library of
//! cryptography in the process. An algorithm is never taken from the token alone: the key that its
//! `kid` names says which ones there may be.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header, errors,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations},
    signature::{Error, Verifier},
};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use super::{
    Trust,
    believed::{Believed, Claimed},
    file::Wrong,
};

/// How far the clocks of issuer and server may be apart.
const LEEWAY: Duration = Duration::from_secs(60);
/// How many bits the modulus of an RSA key has at least: shorter ones can be broken.
const RSA_BITS_MIN: usize = 2_048;
/// And at most: longer ones cost more than they give.
const RSA_BITS_MAX: usize = 8_192;
/// How many bytes a number of P-256 has, and a key of Ed25519.
const POINT_BYTES: usize = 32;
/// How many keys there may be.
const KEYS_MAX: usize = 256;

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct JwtKeys {
    keys: Vec<JwtKey>,
    /// What they have verified.
    pub(super) believed: Believed,
}

#[derive(Debug)]
pub(super) struct JwtKey {
    id: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    /// Lasts while the file has the key.
    trust: Arc<Trust>,
}

/// Why a token is not believed. Whoever shows one is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbelieved {
    /// It is no JWT, and no other token that is known.
    Unknown,
    /// It calls something critical.
    Critical,
    /// There is no such key, or it does not say which.
    Key,
    /// The key is not for that algorithm.
    Algorithm,
    /// The key has not signed it.
    Signature,
    /// It is another issuer's.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// It was good.
    Expired,
    /// It will be good.
    Early,
    /// It lacks something, or something is not what it has to be.
    Claims,
    /// It is good, and its subject nobody's.
    Subject,
}

impl Unbelieved {
    fn of(kind: &errors::ErrorKind) -> Self {
        use errors::ErrorKind::{InvalidAudience, InvalidIssuer, InvalidSignature};
        if matches!(kind, InvalidSignature) {
            Self::Signature
        } else if matches!(kind, InvalidIssuer) {
            Self::Issuer
        } else if matches!(kind, InvalidAudience) {
            Self::Audience
        } else {
            Self::Claims
        }
    }

    /// As the audit tells it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Critical => "critical",
            Self::Key => "key",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Claims => "claims",
            Self::Subject => "subject",
        }
    }
}

/// Whole seconds since 1970 only: nobody needs less.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    nbf: Option<i64>,
}

impl JwtKeys {
    /// Reads a JWK set. Keys that are for something else than signatures, and kinds that are not
    /// known here, are passed over. Keys that are in `before` as well stay the same; the others are
    /// revoked once `before` is replaced, see [`JwtKeys::revoke_all_but`].
    ///
    /// # Errors
    /// [`Wrong`] when it is none, has a key that must not be used, or has none that can be.
    pub(super) fn parse(text: &str, before: Option<&Self>) -> Result<Self, Wrong> {
        install();
        let wrong = |what: String| Wrong { line: None, what };
        let set: JwkSet = serde_json::from_str(text).map_err(|error| Wrong {
            line: Some(error.line()),
            what: "it is not a set of JSON web keys (RFC 7517)".to_owned(),
        })?;
        if set.keys.len() > KEYS_MAX {
            return Err(wrong(format!("there are more than {KEYS_MAX} keys")));
        }
        let mut keys: Vec<JwtKey> = Vec::new();
        for (index, jwk) in set.keys.iter().enumerate() {
            let key = key(jwk).map_err(|what| wrong(format!("keys[{index}] {what}")))?;
            let Some(mut key) = key else { continue };
            if keys.iter().any(|other| other.id == key.id) {
                return Err(wrong(format!("keys[{index}] has the kid of an earlier key, or none")));
            }
            if let Some(old) = before.and_then(|before| before.keys.iter().find(|old| key.is(old)))
            {
                key.trust = Arc::clone(&old.trust);
            }
            keys.push(key);
        }
        if keys.len() > 1 && keys.iter().any(|key| key.id.is_none()) {
            return Err(wrong("of several keys each must have a kid".to_owned()));
        }
        if keys.is_empty() {
            return Err(wrong("there is no key for RS256, PS256, ES256 or EdDSA in it".to_owned()));
        }
        Ok(Self { keys, believed: Believed::default() })
    }

    /// The key that a token says it was signed with, as far as that can be told without verifying
    /// it.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of_token(&self, token: &str) -> Result<&JwtKey, Unbelieved> {
        let header = decode_header(token).map_err(|_| Unbelieved::Unknown)?;
        // Nothing that a token calls critical is known here.
        if header.crit.is_some() {
            return Err(Unbelieved::Critical);
        }
        let key = self.key(header.kid.as_deref()).ok_or(Unbelieved::Key)?;
        key.algorithms.contains(&header.alg).then_some(key).ok_or(Unbelieved::Algorithm)
    }

    /// The key that a token names; the only one, if it names none.
    fn key(&self, id: Option<&str>) -> Option<&JwtKey> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [key]) => Some(key),
            (None, _) => None,
        }
    }

    /// Ends what was opened with tokens of keys that are not in `after`.
    pub(super) fn revoke_all_but(&self, after: &Self) {
        for key in &self.keys {
            if !after.keys.iter().any(|other| Arc::ptr_eq(&other.trust, &key.trust)) {
                key.trust.end();
            }
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

impl JwtKey {
    /// What a token says, if it is signed by this key, and is of this issuer and for this audience
    /// at this time, in seconds since 1970.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(super) fn verify(
        &self,
        token: &str,
        issuer: &str,
        audience: &str,
        now: i64,
    ) -> Result<Claimed, Unbelieved> {
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&self.algorithms);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The library asks the system for the time; here it comes from the clock that was given.
        validation.validate_exp = false;
        let decoded = decode::<Claims>(token, &self.key, &validation);
        let claims = decoded.map_err(|error| Unbelieved::of(error.kind()))?.claims;
        let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or(0);
        let ends = claims.exp.checked_add(leeway).ok_or(Unbelieved::Claims)?;
        if ends <= now {
            return Err(Unbelieved::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(leeway)) {
            return Err(Unbelieved::Early);
        }
        Ok(Claimed { subject: claims.sub.into(), key: Arc::clone(&self.trust), ends })
    }

    /// Whether it is another one, and verifies at least what that one does.
    fn is(&self, other: &Self) -> bool {
        use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        let is_same = match (self.key.kind(), other.key.kind()) {
            (SecretOrDer(own), SecretOrDer(theirs)) => own == theirs,
            (RsaModulusExponent { n, e }, RsaModulusExponent { n: modulus, e: exponent }) => {
                n == modulus && e == exponent
            }
            (SecretOrDer(_), RsaModulusExponent { .. })
            | (RsaModulusExponent { .. }, SecretOrDer(_)) => false,
        };
        let verifies = |algorithm| self.algorithms.contains(algorithm);
        is_same && self.id == other.id && other.algorithms.iter().all(verifies)
    }
}

/// A key and what it may verify; none of what is not for us.
fn key(jwk: &Jwk) -> Result<Option<JwtKey>, &'static str> {
    use jsonwebtoken::jwk::PublicKeyUse;
    let common = &jwk.common;
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
        return Err("is a secret (kty oct): such a key must not be used");
    }
    let other_use = common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature);
    let other_operation = common.key_operations.as_ref();
    let other_operation = other_operation.is_some_and(|it| !it.contains(&KeyOperations::Verify));
    if other_use || other_operation {
        return Ok(None);
    }
    let Some(mut algorithms) = algorithms(&jwk.algorithm) else { return Ok(None) };
    if let Some(only) = common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
    }
    if algorithms.is_empty() {
        return Ok(None);
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "is not encoded as base64url")?;
    check(&key)?;
    let trust = Arc::new(Trust::new());
    Ok(Some(JwtKey { id: common.key_id.clone(), key, algorithms, trust }))
}

/// The algorithms of a kind of key.
fn algorithms(parameters: &AlgorithmParameters) -> Option<Vec<Algorithm>> {
    if let AlgorithmParameters::RSA(_) = parameters {
        return Some(vec![Algorithm::RS256, Algorithm::PS256]);
    }
    if let AlgorithmParameters::EllipticCurve(key) = parameters {
        return (key.curve == EllipticCurve::P256).then(|| vec![Algorithm::ES256]);
    }
    if let AlgorithmParameters::OctetKeyPair(key) = parameters {
        return (key.curve == EllipticCurve::Ed25519).then(|| vec![Algorithm::EdDSA]);
    }
    None
}

/// That a key has the size that its kind has.
fn check(key: &DecodingKey) -> Result<(), &'static str> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e: _ } => {
            let bits = bits(n);
            if bits < RSA_BITS_MIN {
                Err("is an RSA key of less than 2048 bits")
            } else if bits > RSA_BITS_MAX {
                Err("is an RSA key of more than 8192 bits")
            } else {
                Ok(())
            }
        }
        DecodingKeyKind::SecretOrDer(bytes) => {
            // A point of P-256 is two numbers after a byte that says so.
            let sizes = [POINT_BYTES, POINT_BYTES.saturating_mul(2).saturating_add(1)];
            if sizes.contains(&bytes.len()) { Ok(()) } else { Err("has not the size of its kind") }
        }
    }
}

fn bits(number: &[u8]) -> usize {
    let number = number.iter().skip_while(|byte| **byte == 0);
    let zeros = number.clone().next().map_or(0, |first| first.leading_zeros());
    let bits = number.count().saturating_mul(8);
    bits.saturating_sub(usize::try_from(zeros).unwrap_or(0))
}

/// Lets the library verify with ring. Nothing here makes tokens.
fn install() {
    static ONCE: Once = Once::new();
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(errors::ErrorKind::UnsupportedAlgorithm.into()),
        verifier_factory: |algorithm, key| {
            let (algorithm, key) = (*algorithm, key.clone());
            Ok(Box::new(RingVerifier { algorithm, key }))
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    ONCE.call_once(|| {
        let _nobody_else_installs_one = RING.install_default();
    });
}

/// A key, and the algorithm by which it is to verify.
struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        let verified = match (self.key.kind(), self.algorithm) {
            (DecodingKeyKind::RsaModulusExponent { n, e }, Algorithm::RS256) => {
                RsaPublicKeyComponents { n, e }.verify(
                    &signature::RSA_PKCS1_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            (DecodingKeyKind::RsaModulusExponent { n, e }, Algorithm::PS256) => {
                RsaPublicKeyComponents { n, e }.verify(
                    &signature::RSA_PSS_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            (DecodingKeyKind::SecretOrDer(point), Algorithm::ES256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (DecodingKeyKind::SecretOrDer(point), Algorithm::EdDSA) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
            (_, _) => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests;
