//! Clients that are known by their certificates, over real connections.

use std::{fs, net::Ipv4Addr};

use daybook::{
    ops::config::{Config, TlsFiles},
    proto::TailEventsRequest,
    server,
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::{Files, assert_denied, call, principal, reload::assert_ends};
use crate::{
    service::{Client, deposit, get, open},
    tls::{Authority, Pair, authority, client, files, write},
};

const ID: &str = "a11ce000-0000-4000-8000-000000000001";

/// What a client with this name in its certificate trusts and shows.
fn shows(servers: &Authority, clients: &Authority, name: &str) -> ClientTlsConfig {
    let identity = Pair::of(clients, &client(name)).identity();
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(servers.pem())).identity(identity)
}

#[tokio::test]
async fn a_certificate_says_who_calls() {
    // By the names in their certificates there are a writer, and a reader of one account. One whose
    // name nobody knows is let in by TLS, and by nothing else. A token counts more.
    let (servers, clients) = (authority("servers"), authority("clients"));
    let secrets = Files::new();
    let directory = secrets.path("tls");
    fs::create_dir(&directory).unwrap();
    write(&directory, &Pair::of_server(&servers));
    let client_ca = directory.join("client-ca.pem");
    fs::write(&client_ca, clients.pem()).unwrap();
    let by_name = |name: &str, role: &str, more: &str| {
        let table = format!("[[principal]]\nname = \"{name}\"\nrole = \"{role}\"\n");
        format!("{table}certificate = [\"{name}.bank.example\"]\n{more}\n")
    };
    let credentials = by_name("till", "writer", "")
        + &by_name("auditor", "reader", &format!("accounts = [\"{ID}\"]"))
        + &principal("ops", "admin", "s3cret", "");
    secrets.write("credentials", &credentials);
    let tls = Some(TlsFiles { client_ca: Some(client_ca), ..files(&directory) });
    let config = Config { tls, jwt: None, ephemeral: true, ..secrets.config() };

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async move {
        let shutdown = async { stopped.await.unwrap_or_default() };
        server::serve(&config, listener, shutdown).await
    });
    let connect = async |name: &str| {
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let endpoint = endpoint.tls_config(shows(&servers, &clients, name)).unwrap();
        Client::over(endpoint.connect().await.unwrap(), address)
    };
    let till = connect("till.bank.example").await;
    till.wait_until_serving("readiness").await;
    let mut request = open("ada", 7);
    request.account_id = ID.into();
    till.call(request).await.unwrap();
    till.call(deposit(ID, 1)).await.unwrap();

    let auditor = connect("Auditor.Bank.Example").await;
    assert_eq!(auditor.balance(ID).await, 8);
    let other = "a11ce000-0000-4000-8000-000000000002";
    assert_denied(
        auditor.call(get(other)).await,
        Code::PermissionDenied,
        "ACCOUNT_NOT_ALLOWED",
        "",
    );
    let answer = auditor.call(deposit(ID, 1)).await;
    assert_denied(answer, Code::PermissionDenied, "ROLE_INSUFFICIENT", "a reader");
    call(&auditor, "s3cret", deposit(ID, 1)).await.unwrap();
    let answer = call(&auditor, "wrong", get(ID)).await;
    assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", "a wrong token");

    let stranger = connect("stranger.bank.example").await;
    stranger.wait_until_serving("readiness").await;
    let answer = stranger.call(get(ID)).await;
    assert_denied(answer, Code::Unauthenticated, "CREDENTIALS_INVALID", "a stranger");
    drop((auditor, stranger));

    // A name is taken away from one that stays: what it has opened by that ends.
    let tail = till.queries.clone().tail_events(TailEventsRequest::default()).await.unwrap();
    let more = by_name("till", "writer", "").replace("till.bank", "till-2.bank");
    secrets.write("credentials", &more);
    assert_ends(&mut tail.into_inner(), "its certificate is gone").await;
    assert_denied(till.call(get(ID)).await, Code::Unauthenticated, "CREDENTIALS_INVALID", "");
    let again = connect("till-2.bank.example").await;
    again.call(get(ID)).await.unwrap();
    drop((till, again));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
