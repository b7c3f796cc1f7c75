//! The entrance: lets calls in, or not, before anything else of them is looked at.
//!
//! It asks the room of access who a call is from, and whether that one may call the method. What it
//! has found out goes with the request: the services ask [`principal`] who it is, and
//! [`permit`](super::permit) which accounts it may touch.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tonic::{
    Status,
    body::Body,
    codegen::http::{self, HeaderMap, HeaderValue, header::AUTHORIZATION},
};

use super::{Peer, elsewhere::FORWARDED, status};
use crate::{
    access::{Caller, Denial, Denied, Gate, Identity, Origin, Place, Trust, policy},
    domain::Principal,
};

/// What a method is called in the audit that the server does not have.
const OTHER: &str = "-";

/// Lets calls in. Cheap to clone.
#[derive(Clone)]
pub struct Entrance(Option<Gate>);

/// A call that was let in, as long as it takes. In the extensions of its request; cheap to clone.
#[derive(Clone)]
pub(super) struct Visit(Arc<Visitor>);

struct Visitor {
    caller: Caller,
    gate: Gate,
    method: &'static str,
    origin: Origin,
    /// What it showed at the entrance was signed with this, if it was signed.
    key: Option<Arc<Trust>>,
    /// When what it showed at the entrance is not good any more.
    expires: Option<Instant>,
    /// Its place among those of its principal, given back when the call has ended.
    _place: Option<Place>,
}

/// Whom a request is from, to be recorded with what it does. Noted in its extensions, which no
/// client can write.
pub(super) fn principal<T>(request: &tonic::Request<T>) -> Option<Principal> {
    request.extensions().get().cloned()
}

pub(super) fn visit<T>(request: &tonic::Request<T>) -> Option<&Visit> {
    request.extensions().get()
}

impl Entrance {
    /// Lets in whom `gate` knows; everybody where there is none.
    #[must_use]
    pub fn new(gate: Option<Gate>) -> Self {
        Self(gate)
    }

    /// Lets a call in, and notes in its extensions who it is from. None for a call that is
    /// anybody's.
    ///
    /// # Errors
    /// UNAUTHENTICATED when that is nobody, PERMISSION_DENIED when it may not call the method,
    /// RESOURCE_EXHAUSTED when it has taken all that it may.
    pub(super) fn admit(&self, request: &mut http::Request<Body>) -> Result<Option<Visit>, Status> {
        let Some(gate) = &self.0 else { return Ok(None) };
        let method = policy::find(request.uri().path());
        if method.is_some_and(|method| method.role.is_none()) {
            return Ok(None);
        }
        let peer = request.extensions().get::<Peer>();
        let origin = Origin {
            peer: peer.map(Peer::address),
            passed_on_for: passed_on_for(request.headers()),
        };
        let name = method.map_or(OTHER, |method| method.path);
        let identified = single(request.headers()).and_then(|authorization| {
            let names = peer.and_then(Peer::certificate_names);
            gate.identify(authorization, names, peer.map(Peer::attempts))
        });
        let Identity { caller, key, expires_in } = identified.map_err(|denial| {
            let (reason, status) = match denial.why {
                Denied::Missing => (status::CREDENTIALS_MISSING, status::credentials_missing()),
                Denied::Invalid => (status::CREDENTIALS_INVALID, status::credentials_invalid()),
                Denied::TooOften => (status::CREDENTIALS_INVALID, status::too_many_attempts()),
            };
            gate.audit().denied(None, name, origin, reason, denial.cause);
            status
        })?;
        let mut place = None;
        if let Some(method) = method {
            if !method.is_for(caller.role()) {
                let principal = Some(caller.principal());
                gate.audit().denied(principal, name, origin, status::ROLE_INSUFFICIENT, None);
                return Err(status::role_insufficient());
            }
            place = caller.begin(method.kind).map_err(status::quota_exceeded)?;
        }
        let visitor = Visitor {
            caller,
            gate: gate.clone(),
            method: name,
            origin,
            key,
            expires: expires_in.and_then(at),
            _place: place,
        };
        let visit = Visit(Arc::new(visitor));
        request.extensions_mut().insert(visit.caller().principal().clone());
        request.extensions_mut().insert(visit.clone());
        Ok(Some(visit))
    }
}

/// The one `authorization` of a request, if there is one. Of several nobody knows which one counts.
fn single(headers: &HeaderMap) -> Result<Option<&[u8]>, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() {
        Err(Denial { why: Denied::Invalid, cause: Some("several") })
    } else {
        Ok(value.map(HeaderValue::as_bytes))
    }
}

/// Where a call came from, by what a server says that has passed it on.
fn passed_on_for(headers: &HeaderMap) -> Option<SocketAddr> {
    headers.get(FORWARDED)?.to_str().ok()?.parse().ok()
}

fn at(expires_in: Duration) -> Option<Instant> {
    Instant::now().checked_add(expires_in)
}

impl Visit {
    pub(super) fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// PERMISSION_DENIED for a call that would touch an account that is not its caller's.
    pub(super) fn account_not_allowed(&self) -> Status {
        let Visitor { caller, gate, method, origin, .. } = &*self.0;
        let principal = Some(caller.principal());
        gate.audit().denied(principal, method, *origin, status::ACCOUNT_NOT_ALLOWED, None);
        status::account_not_allowed()
    }

    /// Waits until its caller may not go on, and says why.
    pub(super) async fn ended(self) -> Status {
        let Visitor { caller, key, expires, .. } = &*self.0;
        let key_ended = async {
            match key {
                Some(key) => key.ended().await,
                None => pending().await,
            }
        };
        let expired = async {
            match expires {
                Some(expires) => sleep_until(*expires).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = caller.revoked() => {}
            () = key_ended => {}
            () = expired => {}
        }
        status::credentials_invalid()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use tonic::Code;

    use super::*;
    use crate::{
        access::certificate_for_tests,
        ops::{ManualClock, config::Config},
    };

    const READ: &str = "/daybook.v1.QueryService/GetAccount";
    const WRITE: &str = "/daybook.v1.CommandService/DepositMoney";

    /// Knows the owner of one certificate, as a reader.
    fn entrance() -> Entrance {
        let file = tempfile::NamedTempFile::new().unwrap();
        let table = "[[principal]]\nname = \"till\"\nrole = \"reader\"\n";
        fs::write(file.path(), format!("{table}certificate = [\"till.example\"]")).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let credentials = Some(file.path().to_owned());
        let config = Config { credentials, ..Config::default() };
        Entrance::new(Gate::load(&config, Arc::new(ManualClock::new(0))).unwrap())
    }

    fn request(path: &str, certificate: Option<&str>) -> http::Request<Body> {
        let der = certificate.map(certificate_for_tests);
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), der);
        http::Request::builder().uri(path).extension(peer).body(Body::empty()).unwrap()
    }

    fn code(path: &str, certificate: Option<&str>) -> Code {
        let admitted = entrance().admit(&mut request(path, certificate));
        admitted.err().map_or(Code::Ok, |status| status.code())
    }

    #[test]
    fn a_certificate_is_enough_where_its_name_is_known() {
        let mut request = request(READ, Some("san"));
        let visit = entrance().admit(&mut request).unwrap().unwrap();
        assert_eq!(visit.caller().principal().as_str(), "till");
        let request = tonic::Request::from_http(request);
        assert_eq!(principal(&request).unwrap().as_str(), "till");
        assert_eq!(code(WRITE, Some("san")), Code::PermissionDenied);
        for other in ["cn", "email", "tricky", "uricn"] {
            assert_eq!(code(READ, Some(other)), Code::Unauthenticated, "{other}");
        }
        assert_eq!(code(READ, None), Code::Unauthenticated);
    }

    #[test]
    fn what_a_call_says_counts_more_than_its_certificate() {
        for value in ["Bearer x", "Basic x", ""] {
            let mut request = request(READ, Some("san"));
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(value));
            let refused = entrance().admit(&mut request).err().unwrap();
            assert_eq!(refused.code(), Code::Unauthenticated, "{value}");
        }
    }

    #[test]
    fn without_a_gate_nobody_is_known_and_everybody_comes_in() {
        let entrance = Entrance::new(None);
        for path in [READ, WRITE, "/"] {
            let mut request = request(path, Some("san"));
            assert!(entrance.admit(&mut request).unwrap().is_none());
            assert!(principal(&tonic::Request::from_http(request)).is_none());
        }
    }
}
