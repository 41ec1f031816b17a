//! Tests of `https://` in the command line: a server behind a proxy that terminates TLS, as in
//! production.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::cli::Run;
use crate::harness::TestHost;

/// Creates a self-signed certificate for `localhost`.
fn make_certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .output()
        .expect("openssl is there");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Terminates TLS in front of a host, with one request for each connection. Returns the proxy's
/// address.
fn proxy(folder: &Path, host: String) -> String {
    let certificate = CertificateDer::from_pem_file(folder.join("certificate.pem")).expect("reads");
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("reads");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("is a pair");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("has an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Clients that do not trust the certificate hang up.
            let _ = forward(connection, &config, &host);
        }
    });
    format!("https://localhost:{port}")
}

fn forward(client: TcpStream, config: &Arc<ServerConfig>, host: &str) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut client = StreamOwned::new(connection, client);
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..count]);
    }
    let request =
        String::from_utf8_lossy(&request).replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let mut server = TcpStream::connect(host)?;
    server.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}

#[test]
fn a_server_behind_tls_is_reached_when_its_certificate_is_trusted() {
    let host = TestHost::start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    make_certificate(folder.path());
    let url = proxy(folder.path(), host.address().to_owned());
    let listed = |trusted: bool| {
        let mut command = host.command(&["plugin", "list", "--server", &url]);
        command
            .env_remove("SSL_CERT_DIR")
            .env_remove("SSL_CERT_FILE");
        if trusted {
            command.env("SSL_CERT_FILE", folder.path().join("certificate.pem"));
        }
        Run::of(command)
    };
    assert!(listed(true).printed().starts_with("PLUGIN"));
    let refused = listed(false);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("no safe connection") && refused.stderr.contains("SSL_CERT_FILE"),
        "{}",
        refused.stderr
    );
    // `https://` to a server without TLS.
    let plain = url.replace("https://", "http://");
    let refused = host.cli(&["plugin", "list", "--server", &plain]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("https://"), "{}", refused.stderr);
}
