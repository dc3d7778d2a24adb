//! TLS towards the upstream: who cannot prove its name gets nothing.
//!
//! `tls/` holds a certificate for `localhost` with its key, and the authority that signed it. They are for these tests
//! alone and nobody else trusts them.

use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refocus_serve::keys::Keys;
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::{ProxyConfig, router};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::wire::{self, Server};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/tls").join(name)
}

/// An upstream behind TLS that answers each connection's first request; its port.
fn upstream() -> u16 {
    let chain = vec![CertificateDer::from_pem_file(file("localhost.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(file("localhost.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    // As `localhost`, which may be either.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            let mut from = BufReader::new(StreamOwned::new(connection, stream));
            if wire::read(&mut from, None).is_ok() {
                let mut stream = from.into_inner();
                let _ = stream.write_all(&wire::json("{\"behind\":\"tls\"}"));
                let _ = stream.read(&mut [0; 1]);
            }
        }
    });
    port
}

fn before(url: String, ca_file: Option<PathBuf>) -> Server {
    let config = ProxyConfig { ca_file, connect_retries: 0, ..ProxyConfig::new(url) };
    Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"))
}

#[test]
fn an_upstream_has_to_prove_its_name() {
    let port = upstream();
    let ask = |server: Server| server.ask(b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n");
    let trusted = ask(before(format!("https://localhost:{port}/v1"), Some(file("ca.pem"))));
    assert_eq!(
        (trusted.status(), trusted.text().as_str()),
        (200, "{\"behind\":\"tls\"}"),
        "{}",
        trusted.text()
    );
    // The certificate is for another name.
    let other = ask(before(format!("https://127.0.0.1:{port}/v1"), Some(file("ca.pem"))));
    assert_eq!((other.status(), other.error_code().as_str()), (502, "upstream_unreachable"));
    assert!(other.text().contains("certificate"), "{}", other.text());
}

#[test]
fn an_authority_that_is_none_is_named() {
    let config = ProxyConfig { ca_file: Some(file("localhost.key")), ..ProxyConfig::new("https://h") };
    let error = router(config, Keys::default(), Arc::new(Metrics::default()))
        .expect_err("no certificate")
        .to_string();
    assert!(error.contains("localhost.key: there is no certificate in it"), "{error}");
    let config = ProxyConfig { ca_file: Some(file("none.pem")), ..ProxyConfig::new("https://h") };
    let error =
        router(config, Keys::default(), Arc::new(Metrics::default())).expect_err("no file").to_string();
    assert!(error.contains("none.pem"), "{error}");
}
