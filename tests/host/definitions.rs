//! Tests of applying definitions: mistakes and their positions, values, and the stored text.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::TestHost;

/// Runs `stepwell` with `stdin` and returns exit code, stdout and stderr.
fn cli(host: &TestHost, arguments: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut command = host.command(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    // A command that does not read stdin may end first.
    let _ = child
        .stdin
        .take()
        .expect("is piped")
        .write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn echo(name: &str, comment: &str) -> String {
    format!("# {comment}\nname: {name}\nsteps:\n  - {{ id: a, plugin: scenarios, step: echo }}\n")
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("is in a folder")).expect("makes the folder");
    fs::write(&path, text).expect("writes");
    path.display().to_string()
}

#[test]
fn mistakes_name_file_line_and_column_and_show_the_place() {
    let host = TestHost::start();
    host.upload("scenarios");
    let folder = tempfile::tempdir().expect("a folder");
    let text = "name: order\nsteps:\n  - id: a\n    plugin: scenarios\n    step: ecko\n    timeout: 1h\n  - id: b\n    plugin: absent\n    step: x\n";
    let file = write(folder.path(), "order.yaml", text);
    let (code, stdout, stderr) = cli(&host, &["workflow", "apply", &file], "");
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    for (line, column, message) in [
        (
            5,
            11,
            "scenarios@1.0.0 has no step `ecko`; did you mean `echo`?",
        ),
        (
            6,
            14,
            "step `a`: `timeout` is more than the 30s that this host gives",
        ),
        (8, 13, "the plugin `absent` is not there"),
    ] {
        let start = format!("error: {file}:{line}:{column}: ");
        let told = stderr.lines().find(|told| told.starts_with(&start));
        let told = told.unwrap_or_else(|| panic!("{start} is not in {stderr}"));
        assert!(told.contains(message), "{told}");
    }
    assert!(
        stderr.contains("\n  5 |     step: ecko\n    |           ^\n"),
        "{stderr}"
    );

    let broken =
        "name: order\nsteps:\n  - { id: a, plugin: scenarios, step: echo, when: \"input.x ==\" }\n";
    let reply = host.request("POST", "/workflows", broken);
    assert_eq!((reply.status, reply.code()), (422, "invalid"));
    assert!(
        reply
            .message()
            .contains("line 3, column 62: step `a`: `when`:"),
        "{}",
        reply.message()
    );
    let [problem] = reply.json["error"]["problems"]
        .as_array()
        .expect("a list")
        .as_slice()
    else {
        panic!("{}", reply.json);
    };
    assert_eq!(
        (&problem["line"], &problem["column"]),
        (&json!(3), &json!(62))
    );
    let excerpt = problem["excerpt"].as_str().expect("a text");
    let (line, caret) = excerpt.split_once('\n').expect("two lines");
    assert_eq!(
        line.chars().nth(caret.chars().count() - 1),
        Some('"'),
        "{excerpt}"
    );
    let (_, _, stderr) = cli(&host, &["workflow", "apply", "-"], broken);
    assert!(
        stderr.starts_with("error: stdin:3:62: ") && !stderr.contains("\\n"),
        "{stderr}"
    );

    // JSON that a client sends has lines and columns too.
    let sent = r#"{"name": "w", "steps": [{"id": "a", "plugin": "scenarios", "step": "echo", "retries": 1}]}"#;
    let reply = host.request("POST", "/workflows", sent);
    let column = sent.find("\"retries\"").expect("is there") + 1;
    assert!(
        reply
            .message()
            .contains(&format!("line 1, column {column}: ")),
        "{}",
        reply.message()
    );
    let reply = host.request("POST", "/workflows", b"name: w\nsteps: \xff");
    assert_eq!(reply.status, 400);
    assert!(
        reply.message().contains("line 2, column 8"),
        "{}",
        reply.message()
    );
}

#[test]
fn folders_and_stdin_are_applied_and_a_mistake_stops_no_other() {
    let host = TestHost::start();
    host.upload("scenarios");
    let folder = tempfile::tempdir().expect("a folder");
    let first = write(folder.path(), "a.yaml", &echo("first", "one"));
    let wrong = write(folder.path(), "b/wrong.yml", "name: wrong\nsteps: 3\n");
    let last = write(
        folder.path(),
        "c.json",
        r#"{"name": "last", "steps": [{"id": "a", "plugin": "scenarios", "step": "echo"}]}"#,
    );
    let all = folder.path().display().to_string();
    let (code, stdout, stderr) = cli(
        &host,
        &["workflow", "apply", &all, "-", "none.yaml"],
        &echo("piped", "in"),
    );
    assert_eq!(code, Some(1));
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(
        lines,
        [
            format!("{first}: first version 1: 1 step, created"),
            format!("{last}: last version 1: 1 step, created"),
            "stdin: piped version 1: 1 step, created".to_owned(),
        ],
        "{stderr}"
    );
    for part in [
        &format!("error: {wrong}:2:8: `steps` must be a list"),
        "error: none.yaml: cannot be read",
        "2 of 5 definitions",
    ] {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    fs::remove_file(&wrong).expect("removes");
    write(
        folder.path(),
        "c.json",
        &echo("last", "now YAML").replace("id: a", "id: b"),
    );
    let (code, stdout, stderr) = cli(&host, &["workflow", "apply", &all], "");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("first version 1: 1 step, unchanged\n"),
        "{stdout}"
    );
    assert!(
        stdout.contains("last version 2: 1 step, updated\n"),
        "{stdout}"
    );
}

#[test]
fn the_text_is_kept_with_its_comments_and_shown() {
    let host = TestHost::start();
    host.upload("scenarios");
    let text = echo("kept", "why: ä\t\"quoted\"");
    let applied = host.request("POST", "/workflows", &text);
    assert_eq!(
        (applied.status, &applied.json["result"]),
        (201, &json!("created"))
    );
    assert_eq!(applied.json.get("source"), None);
    let (code, stdout, stderr) = cli(&host, &["workflow", "show", "kept", "--source"], "");
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), text.as_str()),
        "{stderr}"
    );
    let other = echo("kept", "another remark");
    let again = host.request("POST", "/workflows", &other);
    assert_eq!(
        (again.status, &again.json["result"], &again.json["version"]),
        (200, &json!("unchanged"), &json!(1))
    );
    for path in [
        "/workflows/kept?source=true",
        "/workflows/kept/versions/1?source=true",
    ] {
        assert_eq!(host.get(path)["source"], json!(other), "{path}");
    }
    assert_eq!(host.get("/workflows/kept?source=false").get("source"), None);
    assert_eq!(
        host.request("GET", "/workflows/kept?source=yes", "").status,
        400
    );
}

#[test]
fn values_follow_yaml_1_2() {
    let host = TestHost::start();
    host.upload("scenarios");
    // Scalars that authors write without quotes, and that YAML readers disagree on.
    let addresses = "name: addresses\nsteps:\n  - id: a\n    plugin: scenarios\n    step: echo\n    input: { country: NO, zip: 01234, city: Oslo }\n";
    let reply = host.request("POST", "/workflows", addresses);
    assert_eq!(reply.status, 422);
    for part in [
        "line 6, column 23",
        "`NO`",
        "line 6, column 32",
        "`01234`",
        "quote it",
    ] {
        assert!(
            reply.message().contains(part),
            "{part} is not in {}",
            reply.message()
        );
    }
    host.apply(
        &addresses
            .replace("NO", "'NO'")
            .replace("01234", "\"01234\""),
    );
    let output = &host.run("addresses", &json!({}))["output"];
    let input = output.get("input").unwrap_or(output);
    assert_eq!(
        *input,
        json!({ "country": "NO", "zip": "01234", "city": "Oslo" })
    );
}

#[test]
fn whole_numbers_keep_their_digits_from_the_text_to_the_guest_and_back() {
    const LONG: &str = "9007199254740993";
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(&format!(
        "name: digits\nsteps:\n  - {{ id: a, plugin: scenarios, step: echo, input: {{ fixed: {LONG}, given: '${{input.id}}', next: '${{input.id + 1}}' }} }}\n"
    ));
    assert!(host.get("/workflows/digits").to_string().contains(LONG));
    let started = host.request(
        "POST",
        "/workflows/digits/instances",
        format!(r#"{{"input": {{"id": {LONG}}}}}"#),
    );
    let id = started.json["id"].as_str().expect("an id").to_owned();
    let ended = host.wait(&id);
    let output = ended["output"].to_string();
    for part in [
        format!("\"fixed\":{LONG}"),
        format!("\"given\":{LONG}"),
        "\"next\":9007199254740994".to_owned(),
    ] {
        assert!(output.contains(&part), "{part} is not in {output}");
    }
    let (_, stdout, _) = cli(&host, &["instances", &id, "--json"], "");
    assert!(stdout.matches(LONG).count() >= 3, "{stdout}");
    let (_, stdout, _) = cli(&host, &["instances", &id], "");
    assert!(stdout.contains(LONG), "{stdout}");
}

#[test]
fn now_is_the_time_when_the_step_became_ready() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        "name: times\nsteps:\n  \
         - { id: a, plugin: scenarios, step: echo, input: '${string(now)}' }\n  \
         - { id: b, plugin: scenarios, step: echo, when: \"now - timestamp(string(now)) == duration('0s')\", \
             input: { now: '${now}', a: '${steps.a.output}', due: \"${now + duration('36h')}\" } }\n\
         output: { b: '${steps.b.output}', end: '${now}' }\n",
    );
    let ended = host.run("times", &json!({}));
    assert_eq!(ended["status"], "completed", "{ended}");
    let (attempts, output) = (
        ended["attempts"].as_array().expect("a list"),
        &ended["output"],
    );
    let finished = |step: &str| {
        let attempt = attempts.iter().find(|attempt| attempt["step"] == step);
        let time: stepwell::clock::Timestamp =
            serde_json::from_value(attempt.expect(step)["finished_at"].clone()).expect("a time");
        time
    };
    let time = |value: &Value| -> stepwell::clock::Timestamp {
        serde_json::from_value(value.clone()).expect("a time")
    };
    let b = output["b"].get("input").unwrap_or(&output["b"]);
    assert_eq!(
        time(&b["now"]),
        finished("a"),
        "when the step before was settled"
    );
    assert_eq!(time(&output["end"]), finished("b"));
    assert_eq!(
        time(&b["due"]),
        finished("a").after(std::time::Duration::from_secs(36 * 3_600))
    );
}
