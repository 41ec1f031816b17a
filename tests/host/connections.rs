//! Silent or greedy connections, and tokens with too many requests: other clients keep their
//! places.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::harness::{TestHost, eventually};

const HEALTH: &str = "GET /workflow-metrics/health HTTP/1.1\r\nHost: a\r\n\r\n";

/// Opens `count` connections that never send anything, from this number of addresses.
fn silent(host: &TestHost, count: usize, addresses: u8) -> Vec<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let server: SocketAddr = host.address().parse().expect("is an address");
    let mut connections = Vec::with_capacity(count);
    runtime.block_on(async {
        for number in 0..count {
            let socket = TcpSocket::new_v4().expect("a socket");
            let own = [
                127,
                0,
                0,
                2 + u8::try_from(number % usize::from(addresses)).expect("is small"),
            ];
            socket
                .bind(SocketAddr::from((own, 0)))
                .expect("loopback has many addresses");
            let connection = socket
                .connect(server)
                .await
                .expect("connects")
                .into_std()
                .expect("leaves tokio");
            connection.set_nonblocking(false).expect("blocks");
            connections.push(connection);
        }
    });
    connections
}

/// Returns true if the server has closed the connection.
fn is_closed(connection: &mut TcpStream) -> bool {
    connection
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a socket has timeouts");
    matches!(connection.read(&mut [0]), Ok(0))
}

fn ask(connection: &mut TcpStream, request: &str) -> String {
    connection.write_all(request.as_bytes()).expect("writes");
    let mut answer = [0; 2_048];
    let length = connection.read(&mut answer).expect("is answered");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn counter(host: &TestHost, name: &str) -> u64 {
    let text = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is text");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("{name}"));
    line.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn silent_connections_keep_nobody_out() {
    rlimit::increase_nofile_limit(4_096).expect("may be raised");
    // Long enough that only making room for others can close them.
    let host = TestHost::with(&[("server.header_timeout", "10m")]);
    let mut silent = silent(&host, 1_200, 4);
    for _ in 0..10 {
        assert!(ask(&mut host.connect(), HEALTH).starts_with("HTTP/1.1 200"));
        // Its connection is as good as any.
        assert_eq!(
            host.get("/instances")["items"].as_array().map(Vec::len),
            Some(0)
        );
    }
    assert!(counter(&host, "stepwell_http_connections_evicted_total") >= 176);
    assert!(counter(&host, "stepwell_http_connections") <= 1_024);
    let first = silent.first_mut().expect("there are many");
    eventually("the oldest is closed", || is_closed(first).then_some(()));
    let last = silent.last_mut().expect("there are many");
    assert!(!is_closed(last), "the newest has its place");
}

#[test]
fn an_address_makes_room_for_itself_and_not_at_the_cost_of_others() {
    let host = TestHost::with(&[
        ("server.header_timeout", "10m"),
        ("server.connections_max", "100"),
        ("server.connections_per_address_max", "4"),
    ]);
    let mut other = host.connect();
    assert!(ask(&mut other, HEALTH).starts_with("HTTP/1.1 200"));
    let mut silent = silent(&host, 8, 1);
    for connection in &mut silent[..4] {
        eventually("an older one is closed", || {
            is_closed(connection).then_some(())
        });
    }
    assert!(!silent[4..].iter_mut().any(is_closed));
    assert!(ask(&mut silent[4], HEALTH).starts_with("HTTP/1.1 200"));
    assert!(ask(&mut other, HEALTH).starts_with("HTTP/1.1 200"));
}

#[test]
fn probes_are_answered_while_every_connection_has_a_request_under_way() {
    let host = TestHost::with(&[("server.connections_max", "2")]);
    let head = format!(
        "POST /workflows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
         Content-Length: 9\r\n\r\n",
        host.token
    );
    let mut busy: Vec<_> = (0..2).map(|_| host.connect()).collect();
    for connection in &mut busy {
        assert!(
            ask(connection, &head).starts_with("HTTP/1.1 100"),
            "its request is under way"
        );
    }
    let refused = ask(&mut host.connect(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let refused = refused.to_ascii_lowercase();
    for part in [
        "\"busy\"",
        "retry-after: ",
        "connection: close",
        "server.connections_max",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    for query in ["", "?probe=live", "?probe=ready"] {
        let probe = format!("GET /workflow-metrics/health{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            ask(&mut host.connect(), &probe).starts_with("HTTP/1.1 200"),
            "{query}"
        );
    }
    for connection in &mut busy {
        assert!(ask(connection, "name: 1\n\n").starts_with("HTTP/1.1 422"));
    }
    assert!(
        ask(&mut host.connect(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200")
    );
}

#[test]
fn a_token_that_asks_too_often_is_told_when_to_ask_again() {
    let host = TestHost::with(&[
        ("server.requests_per_second_max", "1"),
        ("server.requests_burst_max", "20"),
    ]);
    let other = host.token_for("other", "ann", &["workflow_read"]);
    let list = |token: &str| host.request_as(token, "GET", "/instances", "");
    let refused = (0..1_000)
        .map(|_| list(&host.token))
        .find(|reply| reply.status != 200)
        .expect("is refused");
    assert_eq!(
        (refused.status, refused.code()),
        (429, "rate-limited"),
        "{}",
        refused.json
    );
    let after: u64 = refused
        .header("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("seconds");
    assert_eq!(after, 1);
    assert_eq!(
        list(&other).status,
        200,
        "another token has a bucket of its own"
    );
    assert_eq!(
        host.send("GET", "/workflow-metrics/health", &[], "").status,
        200
    );
    eventually("it may ask again", || {
        (list(&host.token).status == 200).then_some(())
    });
}
