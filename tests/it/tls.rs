//! TLS: who is let in, who is not, and what happens when the files change.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use daybook::{
    ops::config::{Config, TlsFiles},
    server::{self, ServeError, tls},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::service::{Client, open};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// How long the server may take to notice that files have changed.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// How long a connection may say nothing: what the server allows, and some more.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    pub(crate) fn of(authority: &Authority, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn of_server(authority: &Authority) -> Self {
        Self::of(authority, &CertificateParams::new(["127.0.0.1".to_owned()]).unwrap())
    }

    fn of_client(authority: &Authority) -> Self {
        Self::of(authority, &client("till-1"))
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }
}

pub(crate) fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A server with TLS, and its files.
struct Served {
    address: SocketAddr,
    directory: TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    async fn start(pair: &Pair, client_ca: Option<&Authority>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), pair);
        let client_ca = client_ca.map(|authority| {
            let path = directory.path().join("client-ca.pem");
            fs::write(&path, authority.pem()).unwrap();
            path
        });
        let files = files(directory.path());
        let tls = Some(TlsFiles { client_ca, ..files });
        let config = Config { ephemeral: true, tls, ..Config::default() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            server::serve(&config, listener, shutdown).await
        });
        Self { address, directory, stop, running }
    }

    async fn connect(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    }

    /// Whether a client with these is answered. With TLS 1.3 a client whose certificate is not
    /// wanted is told after it believes itself connected, so the answer counts.
    async fn answers(&self, tls: ClientTlsConfig) -> bool {
        let Ok(channel) = self.connect(tls).await else { return false };
        opens(&Client::over(channel, self.address)).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

/// Whether a client can open an account, once the ledger is recovered.
async fn opens(client: &Client) -> bool {
    loop {
        match client.call(open("ada", 1)).await {
            Ok(_) => return true,
            Err(status) if status.message() == "the ledger is being recovered" => {}
            Err(_) => return false,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn files(directory: &Path) -> TlsFiles {
    let [certificate, key] = ["server.pem", "server.key"].map(|name| directory.join(name));
    TlsFiles { certificate, key, client_ca: None }
}

pub(crate) fn write(directory: &Path, pair: &Pair) {
    let TlsFiles { certificate, key, .. } = files(directory);
    fs::write(certificate, &pair.certificate).unwrap();
    fs::write(key, &pair.key).unwrap();
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served() {
    let (ours, other) = (authority("ours"), authority("other"));
    let served = Served::start(&Pair::of_server(&ours), None).await;
    assert!(served.answers(trusting(&ours)).await);
    assert!(!served.answers(trusting(&other)).await, "another authority");
    let named = trusting(&ours).domain_name("ledger.example");
    assert!(!served.answers(named).await, "another name");
    let plain = Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
    let plain = plain.connect_timeout(Duration::from_secs(5)).connect().await;
    let answered = match plain {
        Ok(channel) => opens(&Client::over(channel, served.address)).await,
        Err(_) => false,
    };
    assert!(!answered, "without TLS");
    served.stop().await;
}

#[tokio::test]
async fn a_client_with_tls_is_not_served_where_there_is_none() {
    let service = crate::service::Service::in_memory().await;
    let endpoint = Endpoint::from_shared(format!("https://{}", service.address())).unwrap();
    let begin = Instant::now();
    let connected = endpoint.tls_config(trusting(&authority("ours"))).unwrap().connect().await;
    assert!(connected.is_err());
    assert!(begin.elapsed() < Duration::from_secs(2), "at once: {:?}", begin.elapsed());
}

#[tokio::test]
async fn clients_need_certificates_where_an_authority_of_theirs_is_named() {
    let (ours, theirs, other) = (authority("ours"), authority("theirs"), authority("other"));
    let served = Served::start(&Pair::of_server(&ours), Some(&theirs)).await;
    let with = |pair: &Pair| trusting(&ours).identity(pair.identity());
    assert!(served.answers(with(&Pair::of_client(&theirs))).await);
    assert!(!served.answers(trusting(&ours)).await, "none");
    assert!(!served.answers(with(&Pair::of_client(&other))).await, "of another authority");
    let key = KeyPair::generate().unwrap();
    let certificate = client("till-1").self_signed(&key).unwrap().pem();
    let signed_by_itself = Pair { certificate, key: key.serialize_pem() };
    assert!(!served.answers(with(&signed_by_itself)).await, "signed by itself");
    let mut old = client("till-1");
    old.not_before = date_time_ymd(2000, 1, 1);
    old.not_after = date_time_ymd(2001, 1, 1);
    assert!(!served.answers(with(&Pair::of(&theirs, &old))).await, "expired");
    let mut of_server = client("till-1");
    of_server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(!served.answers(with(&Pair::of(&theirs, &of_server))).await, "not for clients");
    served.stop().await;
}

#[tokio::test]
async fn files_that_change_are_used_for_new_connections() {
    let (before, after) = (authority("before"), authority("after"));
    let served = Served::start(&Pair::of_server(&before), None).await;
    let old = Client::over(served.connect(trusting(&before)).await.unwrap(), served.address);
    assert!(opens(&old).await);

    // A key of another certificate: what was there before is still used.
    let TlsFiles { key, .. } = files(served.directory.path());
    fs::write(&key, Pair::of_server(&after).key).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(served.answers(trusting(&before)).await);

    write(served.directory.path(), &Pair::of_server(&after));
    let begin = Instant::now();
    while !served.answers(trusting(&after)).await {
        assert!(begin.elapsed() < NOTICED_WITHIN, "it is not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!served.answers(trusting(&before)).await);
    assert!(opens(&old).await, "the open connection goes on");
    served.stop().await;
}

/// The first message of TLS 1.1, by hand: no client here speaks it any more.
const HELLO_OF_TLS_1_1: &[u8] = b"\
    \x16\x03\x01\x00\x47\x01\x00\x00\x43\x03\x02\
    0123456789abcdef0123456789abcdef\
    \x00\x00\x04\xc0\x13\xc0\x09\x01\x00\x00\x16\
    \x00\x0d\x00\x04\x00\x02\x04\x03\
    \x00\x0a\x00\x04\x00\x02\x00\x17\
    \x00\x0b\x00\x02\x01\x00";
/// What it is answered with: a fatal alert, of the version.
const ALERT_PROTOCOL_VERSION: &[u8] = b"\x00\x02\x02\x46";

#[tokio::test]
async fn older_versions_are_refused() {
    let served = Served::start(&Pair::of_server(&authority("ours")), None).await;
    let address = served.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
        stream.write_all(HELLO_OF_TLS_1_1).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer[0], &answer[3..]), (0x15, ALERT_PROTOCOL_VERSION), "{answer:x?}");
    served.stop().await;
}

#[tokio::test]
async fn a_client_of_http_1_is_told_so_over_tls() {
    // Where it does not say within TLS what it speaks: else the handshake fails.
    let ours = authority("ours");
    let served = Served::start(&Pair::of_server(&ours), None).await;
    let mut roots = RootCertStore::empty();
    roots.add(ours.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it ends in order");
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(answer.ends_with("needs HTTP/2.\r\n"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn handshakes_that_are_not_ended_are_closed() {
    // Some end in the middle; some say nothing more, and are closed by the server.
    let ours = authority("ours");
    let served = Served::start(&Pair::of_server(&ours), None).await;
    let address = served.address;
    let silent = tokio::task::spawn_blocking(move || {
        let half = |said: usize| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
            stream.write_all(&HELLO_OF_TLS_1_1[..said]).unwrap();
            stream
        };
        for number in 0..200 {
            drop(half(number % HELLO_OF_TLS_1_1.len()));
        }
        (0..20).map(half).collect::<Vec<_>>()
    });
    let silent = silent.await.unwrap();
    assert!(served.answers(trusting(&ours)).await, "others are served meanwhile");
    let closed = tokio::task::spawn_blocking(move || {
        silent.into_iter().all(|mut stream| stream.read(&mut [0; 64]).is_ok_and(|read| read == 0))
    });
    assert!(closed.await.unwrap());
    served.stop().await;
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let ours = authority("ours");
    let told = |files: &TlsFiles| {
        let told = tls::load(files).unwrap_err().to_string();
        told.replace(directory.path().to_str().unwrap(), "DIR")
    };
    let files = files(directory.path());
    assert_eq!(
        told(&files),
        "tls_certificate = \"DIR/server.pem\": No such file or directory (os error 2)"
    );
    write(directory.path(), &Pair::of_server(&ours));
    assert!(tls::load(&files).is_ok());
    fs::write(&files.certificate, "secret").unwrap();
    assert_eq!(told(&files), "tls_certificate = \"DIR/server.pem\": no certificate in it");
    write(directory.path(), &Pair::of_server(&ours));
    fs::write(&files.key, "secret").unwrap();
    assert_eq!(told(&files), "tls_key = \"DIR/server.key\": no private key in it");
    fs::write(&files.key, Pair::of_server(&ours).key).unwrap();
    assert!(told(&files).starts_with("tls_certificate and tls_key: "), "{}", told(&files));
    write(directory.path(), &Pair::of_server(&ours));
    let broken = directory.path().join("ca.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let files = TlsFiles { client_ca: Some(broken), ..files };
    assert_eq!(told(&files), "tls_client_ca = \"DIR/ca.pem\": not valid PEM");
}
