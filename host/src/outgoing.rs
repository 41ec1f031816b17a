//! The HTTP client for requests that the host itself sends, to addresses in its settings: alerts
//! and traces. The command line shares its TLS: rustls, with the certificate authorities of the
//! system or of `SSL_CERT_FILE`.

use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// Creates the TLS configuration for clients. Certificates are read when the first connection needs
/// them.
pub(crate) fn tls() -> TlsConfig {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::PlatformVerifier)
        .build()
}

/// Creates a blocking client. Each request takes at most `timeout`.
pub(crate) fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .tls_config(tls())
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        // The operator has named one receiver, not the targets of its redirects.
        .max_redirects(0)
        .proxy(None)
        // A request on a connection that the receiver has closed meanwhile would fail.
        .max_idle_connections(0)
        .user_agent(concat!("stepwell/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Describes a failed request. The address may hold a secret, so the description never contains it.
pub(crate) fn problem(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::Io(error) => error.kind().to_string(),
        ureq::Error::HostNotFound => "its host is not found".to_owned(),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            "no safe connection: is its certificate valid?".to_owned()
        }
        _ => "it cannot be asked, or what it answers is no HTTP".to_owned(),
    }
}
