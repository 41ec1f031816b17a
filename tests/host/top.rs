//! `stepwell top`, without a terminal and in a terminal of its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::harness::{DATA_KIB_MAX, TestHost, binary, eventually};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

fn host() -> TestHost {
    let host = TestHost::with(&[("live.interval", "50ms")]);
    host.upload("hello");
    host.apply("name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }");
    host.run("greet", &json!({ "name": "Ada" }));
    host
}

fn output(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn without_a_terminal_it_prints_the_numbers_once() {
    let host = host();
    for arguments in [
        &["top"][..],
        &["top", "--once", "--window", "start", "--team", "default"],
    ] {
        let (code, shown, told) = output(host.command(arguments));
        assert_eq!(code, Some(0), "{told}");
        assert!(shown.contains("created 1   completed 1"), "{shown}");
        assert!(
            shown
                .lines()
                .any(|line| line.starts_with("step hello/greet ")),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
    let (code, shown, told) = output(host.command(&["top", "--json"]));
    assert_eq!(code, Some(0), "{told}");
    let shown: Value = serde_json::from_str(&shown).expect("is JSON");
    assert_eq!(shown["operations"]["step hello/greet"]["count"], 1);
    assert_eq!(
        (
            &shown["live"]["lifecycle"]["created"],
            &shown["alerts"]["alerts"]
        ),
        (&json!(1), &json!([]))
    );
}

#[test]
fn top_refuses_a_bad_token_and_an_absent_server_with_a_hint() {
    let host = host();
    let ann = host.token_for("default", "ann", &["approval_decide"]);
    for (token, complaint) in [("sw_wrong", "not valid"), (ann.as_str(), "workflow_read")] {
        let mut command = host.command(&["top", "--once"]);
        command.env("STEPWELL_TOKEN", token);
        let (code, shown, told) = output(command);
        assert_eq!((code, shown.as_str()), (Some(4), ""));
        assert!(
            told.contains(complaint) && told.contains("hint: "),
            "{told}"
        );
    }
    let (code, _, told) =
        output(host.command(&["top", "--once", "--server", "http://127.0.0.1:1"]));
    assert_eq!(code, Some(3));
    assert!(told.contains("cannot reach"), "{told}");
}

/// A program in a terminal of its own, 100 columns wide.
struct Screen {
    script: Child,
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    fn open(top: &Command) -> Self {
        let line = format!(
            "stty rows 30 cols 100; ulimit -d {DATA_KIB_MAX}; exec {} top",
            binary()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command
            .envs(
                top.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "xterm");
        let mut script = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is there");
        let mut output = script.stdout.take().expect("is a pipe");
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                kept.lock()
                    .expect("nobody panics")
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            script,
            written,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().expect("nobody panics")).into_owned()
    }

    /// Waits until the text was drawn after the first `from` bytes.
    fn shows(&self, from: usize, text: &str) {
        eventually(text, || {
            self.text()
                .get(from..)
                .is_some_and(|all| all.contains(text))
                .then_some(())
        });
    }

    fn press(&mut self, keys: &str) -> usize {
        let before = self.text().len();
        let keyboard = self.script.stdin.as_mut().expect("is a pipe");
        keyboard
            .write_all(keys.as_bytes())
            .and_then(|()| keyboard.flush())
            .expect("is read");
        before
    }

    fn end(&mut self) -> (Option<i32>, String) {
        let code = eventually("it ends", || self.script.try_wait().expect("is a child")).code();
        self.reader
            .take()
            .expect("is joined once")
            .join()
            .expect("reads to the end");
        (code, self.text())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn top_draws_handles_keys_and_restores_the_terminal() {
    let host = host();
    let mut screen = Screen::open(&host.command(&["top"]));
    // Cells that stay empty are not drawn, such as the space before the name.
    screen.shows(0, "hello/greet");
    let before = screen.press("n");
    screen.shows(before, "OPERATION (1m)");
    screen.press("q");
    let (code, text) = screen.end();
    assert_eq!(code, Some(0), "{text}");
    let (enter, leave) = (
        text.find(ENTER).expect("enters"),
        text.rfind(LEAVE).expect("leaves"),
    );
    assert!(
        enter < leave && !text[leave..].contains("stepwell http"),
        "{text:?}"
    );
    assert!(
        text.rfind(SHOW_CURSOR) > text.rfind(HIDE_CURSOR),
        "{text:?}"
    );
}

#[test]
fn no_color_draws_in_bold() {
    let host = host();
    for (no_color, has_colours) in [("", true), ("1", false)] {
        let mut top = host.command(&["top"]);
        top.env("NO_COLOR", no_color);
        let mut screen = Screen::open(&top);
        screen.shows(0, "all is well");
        screen.press("q");
        let (code, text) = screen.end();
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.contains("\u{1b}[38;5;2"), has_colours, "{text:?}");
    }
}

/// Returns a fixed address that forwards to a server, wherever the server listens at the moment.
fn relay(target: &Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("has a port");
    let address = listener.local_addr().expect("has an address");
    let target = Arc::clone(target);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let address = target.lock().expect("nobody panics").clone();
            let Ok(server) = TcpStream::connect(address) else {
                continue;
            };
            let pipe = |mut from: TcpStream, mut to: TcpStream| {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            };
            let clone = |stream: &TcpStream| stream.try_clone().expect("is a socket");
            pipe(clone(&client), clone(&server));
            pipe(server, client);
        }
    });
    format!("http://{address}")
}

#[test]
fn top_shows_a_lost_server_and_continues_when_it_returns() {
    let mut host = TestHost::with(&[("live.interval", "50ms")]);
    let target = Arc::new(Mutex::new(host.address().to_owned()));
    let mut top = host.command(&["top"]);
    top.env("STEPWELL_URL", relay(&target));
    let mut screen = Screen::open(&top);
    screen.shows(0, "all is well");
    host.kill();
    screen.shows(0, "no answer, asking again");
    host.restart();
    let before = screen.press("e");
    host.address()
        .clone_into(&mut target.lock().expect("nobody panics"));
    screen.shows(before, "all is well");
    screen.press("\u{3}");
    assert_eq!(screen.end().0, Some(0));
}
