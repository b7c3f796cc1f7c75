//! Methods: those that can be called, so that what is counted by method has an end.

/// A method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its service, with the package.
    pub service: &'static str,
    /// Its own name.
    pub name: &'static str,
    /// How often each side speaks.
    pub kind: MethodKind,
}

/// How often each side of a call speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// Once each.
    Unary,
    /// The server goes on.
    ServerStream,
    /// Both go on.
    BidiStream,
}

impl MethodKind {
    /// As labels have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }

    /// Whether the answer has an end that is told after it has begun.
    pub(super) fn is_stream(self) -> bool {
        match self {
            Self::Unary => false,
            Self::ServerStream | Self::BidiStream => true,
        }
    }
}

const COMMANDS: &str = "daybook.v1.CommandService";
const QUERIES: &str = "daybook.v1.QueryService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

const fn unary(service: &'static str, name: &'static str) -> Method {
    Method { service, name, kind: MethodKind::Unary }
}

/// What a call counts as whose method nobody has: its name is the caller's, and there is no end to
/// names.
pub(super) const OTHER: Method = unary("other", "other");

/// All methods, the busiest ones first; the last one is none of ours.
pub const METHODS: [Method; 20] = [
    unary(COMMANDS, "TransferMoney"),
    unary(COMMANDS, "DepositMoney"),
    unary(COMMANDS, "WithdrawMoney"),
    unary(QUERIES, "GetAccount"),
    unary(COMMANDS, "ExecuteBatch"),
    unary(COMMANDS, "OpenAccount"),
    unary(COMMANDS, "CloseAccount"),
    Method { service: COMMANDS, name: "ExecuteStream", kind: MethodKind::BidiStream },
    unary(QUERIES, "ListAccounts"),
    unary(QUERIES, "ListAccountEvents"),
    unary(QUERIES, "ListTransactions"),
    unary(QUERIES, "GetSaga"),
    unary(QUERIES, "ListSagas"),
    unary(QUERIES, "GetStats"),
    Method { service: QUERIES, name: "TailEvents", kind: MethodKind::ServerStream },
    unary(HEALTH, "Check"),
    Method { service: HEALTH, name: "Watch", kind: MethodKind::ServerStream },
    Method { service: REFLECTION, name: "ServerReflectionInfo", kind: MethodKind::BidiStream },
    Method {
        service: REFLECTION_ALPHA,
        name: "ServerReflectionInfo",
        kind: MethodKind::BidiStream,
    },
    OTHER,
];

/// The place among [`METHODS`] of the method that a path calls.
pub(super) fn place(path: &str) -> usize {
    let called = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
    let other = METHODS.len().saturating_sub(1);
    let Some((service, name)) = called else { return other };
    let is_called = |method: &Method| method.name == name && method.service == service;
    METHODS.iter().position(is_called).unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Every method of the files that the server reflects, as they describe it.
    fn described(bytes: &[u8]) -> Vec<(String, String, MethodKind)> {
        let files = FileDescriptorSet::decode(bytes).unwrap().file;
        let services = files.into_iter().flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().map(move |service| (package.clone(), service))
        });
        let methods = services.flat_map(|(package, service)| {
            let service_name = format!("{package}.{}", service.name());
            service.method.into_iter().map(move |method| {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => MethodKind::Unary,
                    (false, true) => MethodKind::ServerStream,
                    (true, true) => MethodKind::BidiStream,
                    (true, false) => panic!("{method:?} is of a kind that is not counted"),
                };
                (service_name.clone(), method.name().to_owned(), kind)
            })
        });
        methods.collect()
    }

    #[test]
    fn every_method_that_is_served_is_known_and_no_other() {
        let mut expected = described(crate::proto::FILE_DESCRIPTOR_SET);
        expected.extend(described(tonic_health::pb::FILE_DESCRIPTOR_SET));
        for service in ["v1", "v1alpha"] {
            let service = format!("grpc.reflection.{service}.ServerReflection");
            expected.push((service, "ServerReflectionInfo".to_owned(), MethodKind::BidiStream));
        }
        let (other, known) = METHODS.split_last().unwrap();
        assert_eq!(*other, OTHER);
        let mut known: Vec<_> = known
            .iter()
            .map(|method| (method.service.to_owned(), method.name.to_owned(), method.kind))
            .collect();
        expected.sort_by(|one, two| (&one.0, &one.1).cmp(&(&two.0, &two.1)));
        known.sort_by(|one, two| (&one.0, &one.1).cmp(&(&two.0, &two.1)));
        assert_eq!(known, expected);
    }

    #[test]
    fn a_path_leads_to_its_method() {
        for (index, method) in METHODS.iter().enumerate() {
            assert_eq!(place(&format!("/{}/{}", method.service, method.name)), index);
        }
        for path in
            ["", "/", "*", "/daybook.v1.QueryService/Nope", "daybook.v1.QueryService/GetSaga"]
        {
            assert_eq!(METHODS[place(path)], OTHER, "{path}");
        }
    }
}
