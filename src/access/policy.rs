//! The policy: one table that says who may call what.
//!
//! It has every method that the server can have. What is not in it is denied to whoever has no
//! credentials, and known to nobody.

use Kind::{Aside, Call, Stream, Tail};
use Role::{Reader, Writer};

/// What a principal is there for. Each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Reader,
    /// Gives commands.
    Writer,
    /// Everything, and on all accounts.
    Admin,
}

/// What a call of a method takes of what its principal may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One call, until it is answered.
    Call,
    /// One call, until the stream has ended.
    Stream,
    /// One tail.
    Tail,
    /// Nothing: it asks about the server, not about the ledger.
    Aside,
}

/// A method, and who may call it.
#[derive(Debug)]
pub struct Method {
    /// Its path in HTTP/2: a slash, the service, a slash, the name.
    pub path: &'static str,
    /// The least role; none where anybody may call it, without credentials.
    pub role: Option<Role>,
    /// What it takes.
    pub kind: Kind,
}

const fn method(path: &'static str, role: Option<Role>, kind: Kind) -> Method {
    Method { path, role, kind }
}

/// All methods.
pub static METHODS: [Method; 19] = [
    method("/daybook.v1.CommandService/OpenAccount", Some(Writer), Call),
    method("/daybook.v1.CommandService/DepositMoney", Some(Writer), Call),
    method("/daybook.v1.CommandService/WithdrawMoney", Some(Writer), Call),
    method("/daybook.v1.CommandService/TransferMoney", Some(Writer), Call),
    method("/daybook.v1.CommandService/CloseAccount", Some(Writer), Call),
    method("/daybook.v1.CommandService/ExecuteBatch", Some(Writer), Call),
    method("/daybook.v1.CommandService/ExecuteStream", Some(Writer), Stream),
    method("/daybook.v1.QueryService/GetAccount", Some(Reader), Call),
    method("/daybook.v1.QueryService/ListAccounts", Some(Reader), Call),
    method("/daybook.v1.QueryService/ListAccountEvents", Some(Reader), Call),
    method("/daybook.v1.QueryService/ListTransactions", Some(Reader), Call),
    method("/daybook.v1.QueryService/GetSaga", Some(Reader), Call),
    method("/daybook.v1.QueryService/ListSagas", Some(Reader), Call),
    method("/daybook.v1.QueryService/GetStats", Some(Reader), Call),
    method("/daybook.v1.QueryService/TailEvents", Some(Reader), Tail),
    method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(Reader), Aside),
    method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Some(Reader), Aside),
    // Probes have no credentials.
    method("/grpc.health.v1.Health/Check", None, Aside),
    method("/grpc.health.v1.Health/Watch", None, Aside),
];

/// The method with this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

impl Method {
    /// Whether a principal of this role may call it.
    #[must_use]
    pub fn is_for(&self, role: Role) -> bool {
        self.role.is_none_or(|least| role >= least)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// The paths of all methods that the server has, by the descriptors that it is made of.
    fn served() -> BTreeSet<String> {
        let sets = [
            crate::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
        let mut paths = BTreeSet::new();
        for file in files {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_method_that_is_served_has_a_policy() {
        let served = served();
        assert!(served.len() >= 19, "{served:?}");
        let missing: Vec<_> = served.iter().filter(|path| find(path).is_none()).collect();
        assert!(missing.is_empty(), "without a policy: {missing:?}");
        let known: BTreeSet<String> = METHODS.iter().map(|it| it.path.to_owned()).collect();
        assert_eq!(known.len(), METHODS.len(), "a method has one entry");
        let gone: Vec<_> = known.difference(&served).collect();
        assert!(gone.is_empty(), "in no descriptor: {gone:?}");
    }

    #[test]
    fn who_may_call_what_follows_from_the_service() {
        for method in &METHODS {
            let (_, rest) = method.path.split_once('/').unwrap();
            let least = match rest.split_once('/').unwrap().0 {
                "daybook.v1.CommandService" => Some(Writer),
                "daybook.v1.QueryService"
                | "grpc.reflection.v1.ServerReflection"
                | "grpc.reflection.v1alpha.ServerReflection" => Some(Reader),
                "grpc.health.v1.Health" => None,
                other => panic!("{other} is not known"),
            };
            assert_eq!(method.role, least, "{}", method.path);
            assert!(method.is_for(Role::Admin));
            assert_eq!(method.is_for(Reader), least != Some(Writer), "{}", method.path);
        }
    }

    #[test]
    fn a_path_is_a_method_only_as_it_is_written() {
        assert!(find("/daybook.v1.QueryService/GetAccount").is_some());
        for other in ["", "/", "daybook.v1.QueryService/GetAccount", "/daybook.v1.QueryService/"] {
            assert!(find(other).is_none(), "{other}");
        }
        assert!(find("/daybook.v1.QueryService/getaccount").is_none());
        assert!(find("//daybook.v1.QueryService/GetAccount").is_none());
        assert!(find("/daybook.v1.QueryService/GetAccount/").is_none());
    }
}
