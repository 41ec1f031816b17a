//! The interfaces of WASI that components may import.

use semver::Version;

/// The version of WASI that the host offers. Every patch of it is served.
pub const VERSION: &str = "0.2";

/// The packages of which the host offers interfaces.
pub const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// The interfaces, without their versions.
const INTERFACES: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Returns whether a component may import `import`, written as `wasi:package/interface@version`.
pub fn is_offered(import: &str) -> bool {
    let Some((interface, version)) = import.split_once('@') else {
        return false;
    };
    INTERFACES.contains(&interface)
        && Version::parse(version)
            .is_ok_and(|asked| (asked.major, asked.minor) == (0, 2) && asked.pre.is_empty())
}

/// Returns the package of an import of WASI: `http` for `wasi:http/types@0.2.0`.
pub fn package(import: &str) -> Option<&str> {
    let rest = import.strip_prefix("wasi:")?;
    rest.split(['/', '@']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_of_an_offered_interface_is_offered_and_nothing_else() {
        for import in [
            "wasi:io/streams@0.2.0",
            "wasi:cli/exit@0.2.12",
            "wasi:sockets/tcp@0.2.99",
        ] {
            assert!(is_offered(import), "{import}");
        }
        for import in [
            "wasi:io/streams@0.3.0",
            "wasi:io/streams@0.2.0-rc-2023-11-10",
            "wasi:io/streams@1.2.0",
            "wasi:io/streams",
            "wasi:io/other@0.2.0",
            "wasi:http/types@0.2.0",
            "wasi:clocks/timezone@0.2.0",
            "io/streams@0.2.0",
        ] {
            assert!(!is_offered(import), "{import}");
        }
        assert_eq!(package("wasi:http/types@0.2.0"), Some("http"));
        assert_eq!(package("acme:http/types@0.2.0"), None);
        for interface in INTERFACES {
            assert!(package(interface).is_some_and(|it| PACKAGES.contains(&it)));
        }
    }
}
