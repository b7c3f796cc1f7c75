//! Methods: those that can be called, so that what is counted by method has an end.

/// A method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its service, with the package.
    pub service: &'static str,
    /// Its own name.
    pub name: &'static str,
    /// The service, a slash, and the name.
    pub full_name: &'static str,
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

/// A method of this kind, by its service and name.
macro_rules! method {
    ($kind:ident, $service:literal, $name:literal) => {
        Method {
            service: $service,
            name: $name,
            full_name: concat!($service, "/", $name),
            kind: MethodKind::$kind,
        }
    };
}

/// What a call counts as whose method nobody has: its name is the caller's, and there is no end to
/// names.
pub(super) const OTHER: Method = method!(Unary, "other", "other");

/// All methods, the busiest ones first; the last one is none of ours.
pub const METHODS: [Method; 20] = [
    method!(Unary, "daybook.v1.CommandService", "TransferMoney"),
    method!(Unary, "daybook.v1.CommandService", "DepositMoney"),
    method!(Unary, "daybook.v1.CommandService", "WithdrawMoney"),
    method!(Unary, "daybook.v1.QueryService", "GetAccount"),
    method!(Unary, "daybook.v1.CommandService", "ExecuteBatch"),
    method!(Unary, "daybook.v1.CommandService", "OpenAccount"),
    method!(Unary, "daybook.v1.CommandService", "CloseAccount"),
    method!(BidiStream, "daybook.v1.CommandService", "ExecuteStream"),
    method!(Unary, "daybook.v1.QueryService", "ListAccounts"),
    method!(Unary, "daybook.v1.QueryService", "ListAccountEvents"),
    method!(Unary, "daybook.v1.QueryService", "ListTransactions"),
    method!(Unary, "daybook.v1.QueryService", "GetSaga"),
    method!(Unary, "daybook.v1.QueryService", "ListSagas"),
    method!(Unary, "daybook.v1.QueryService", "GetStats"),
    method!(ServerStream, "daybook.v1.QueryService", "TailEvents"),
    method!(Unary, "grpc.health.v1.Health", "Check"),
    method!(ServerStream, "grpc.health.v1.Health", "Watch"),
    method!(BidiStream, "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
    method!(BidiStream, "grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
    OTHER,
];

/// The place among [`METHODS`] of the method that a path calls.
pub(super) fn place(path: &str) -> usize {
    let other = METHODS.len().saturating_sub(1);
    let Some(called) = path.strip_prefix('/') else { return other };
    METHODS.iter().position(|method| method.full_name == called).unwrap_or(other)
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
