//! The source of a request: the connection's address or, behind a trusted proxy, the client's
//! address as the proxy reports it.

use std::net::IpAddr;
use std::ops::Deref;

use hyper::HeaderMap;
use hyper::http::request::Parts;

use crate::config::Network;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// A request's head with the address at the other end of its connection.
#[derive(Debug)]
pub(super) struct RequestHead {
    parts: Parts,
    peer: IpAddr,
}

impl RequestHead {
    pub(super) fn new(parts: Parts, peer: IpAddr) -> Self {
        Self {
            parts,
            peer: peer.to_canonical(),
        }
    }

    /// Returns the client's address.
    ///
    /// Each proxy appends the address of its own client to `X-Forwarded-For`, so the list is read
    /// from its end. The first address that is not a trusted proxy is the client's. Entries before
    /// it may be forged.
    pub(super) fn source(&self, trusted: &[Network]) -> IpAddr {
        source(self.peer, &self.parts.headers, trusted)
    }
}

impl Deref for RequestHead {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

fn source(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let lists = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .rev()
        .filter_map(|value| value.to_str().ok());
    let mut nearest = peer;
    for text in lists.flat_map(|list| list.rsplit(',')) {
        // Text that is not an address ends the chain: nothing before it can be trusted.
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            break;
        };
        nearest = address.to_canonical();
        if !is_trusted(nearest) {
            break;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, lists: &[&str]) -> String {
        let trusted: Vec<Network> = ["10.0.0.0/8"]
            .iter()
            .map(|text| text.parse().expect("is a network"))
            .collect();
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(FORWARDED_FOR, list.parse().expect("is a header"));
        }
        source(peer.parse().expect("is an address"), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_as_far_as_it_can_know() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            seen("10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.0.0.2"]),
            "198.51.100.7"
        );
        assert_eq!(
            seen("10.0.0.1", &["203.0.113.9", "198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, nonsense"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }
}
