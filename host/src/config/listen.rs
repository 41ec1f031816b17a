//! The address to listen on: a host, by its name or number, and a port.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address such as `127.0.0.1:7400`, `[::1]:7400` or `localhost:7400`. A name is looked up when
/// the host starts to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The host's name or number, without brackets.
    host: String,
    port: u16,
}

impl ListenAddress {
    /// Returns the host and the port, as the standard library looks them up.
    pub fn parts(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            format!(
                "'{shown}' {problem}: write 127.0.0.1:7400 (this machine alone), 0.0.0.0:7400 (every network), \
                 [::1]:7400 or localhost:7400"
            )
        };
        if text.contains("://") {
            return Err(wrong("is a URL, and an address is expected"));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("is not an address and a port"))?;
        let port = port
            .parse()
            .map_err(|_| wrong("does not end in a port from 0 to 65535"))?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => host,
            Some(_) => return Err(wrong("has no IPv6 address between the brackets")),
            None if host.is_empty() => return Err(wrong("does not say on which address")),
            None if host.contains(':') => {
                return Err(wrong("has an IPv6 address without brackets"));
            }
            None => host,
        };
        if host
            .chars()
            .any(|character| !(character.is_ascii_alphanumeric() || ".:-_%".contains(character)))
        {
            return Err(wrong("has no name of a host before the port"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_a_port_are_taken() {
        for text in [
            "127.0.0.1:7400",
            "0.0.0.0:80",
            "[::1]:7400",
            "localhost:7400",
            "db-1.internal:0",
        ] {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_examples() {
        for (text, problem) in [
            (":7400", "does not say on which address"),
            ("7400", "is not an address and a port"),
            ("localhost", "is not an address and a port"),
            ("localhost:http", "does not end in a port"),
            ("127.0.0.1:70000", "does not end in a port"),
            ("::1:7400", "without brackets"),
            ("[localhost]:7400", "no IPv6 address"),
            ("http://localhost:7400", "is a URL"),
            ("a b:1", "no name of a host"),
        ] {
            let error = text.parse::<ListenAddress>().expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
            assert!(error.contains("127.0.0.1:7400"), "{text}: {error}");
        }
    }
}
