//! Clients that are generated from `/openapi.json` compile, and call a host. The sources that use
//! them are in `tests/clients/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::TestHost;

/// Names the folder with the generators; set by `cargo xtask test`, which installs them.
const FOLDER: &str = "STEPWELL_TEST_CLIENTS";
/// Set by `cargo xtask test --without-clients`, whose last line says so.
const WITHOUT: &str = "STEPWELL_TEST_WITHOUT_CLIENTS";

/// Returns the folder with the generators; none if they are left out.
fn generators() -> Option<PathBuf> {
    if std::env::var_os(WITHOUT).is_some() {
        return None;
    }
    let folder = std::env::var_os(FOLDER);
    Some(
        folder
            .expect("this needs generators of clients: run `cargo xtask test`, or name the folder with them")
            .into(),
    )
}

/// Creates a folder with the host's description and the sources that use the client.
fn folder(host: &TestHost, names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let document = host.send("GET", "/openapi.json", &[], "").body;
    std::fs::write(folder.path().join("openapi.json"), document).expect("is written");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients");
    for name in names {
        std::fs::copy(sources.join(name), folder.path().join(name)).expect("is copied");
    }
    folder
}

/// Runs a program and returns its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn a_typescript_client_compiles_and_works() {
    let Some(generators) = generators() else {
        return;
    };
    let host = TestHost::start();
    let folder = folder(&host, &["client.ts"]);
    let packages = generators.join("node_modules");
    std::os::unix::fs::symlink(&packages, folder.path().join("node_modules")).expect("is linked");
    std::fs::write(
        folder.path().join("package.json"),
        r#"{ "type": "module" }"#,
    )
    .expect("is written");
    let program = |name: &str| {
        let mut command = Command::new(packages.join(".bin").join(name));
        command.current_dir(folder.path());
        command
    };
    // Properties with a default may be left out of requests.
    run(program("openapi-typescript").args([
        "openapi.json",
        "--default-non-nullable",
        "false",
        "--output",
        "api.d.ts",
    ]));
    // The compiler knows nothing of node but what the source uses.
    std::fs::write(
        folder.path().join("node.d.ts"),
        "declare const process: { argv: string[] };\n",
    )
    .expect("is written");
    run(program("tsc").args([
        "--strict",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--lib",
        "es2022,dom,dom.iterable",
        "client.ts",
        "node.d.ts",
    ]));
    let said = run(Command::new("node").current_dir(folder.path()).args([
        "client.js",
        &host.url,
        &host.token,
    ]));
    assert!(
        said.starts_with("typed waiting ") || said.starts_with("typed running "),
        "{said}"
    );
}

#[test]
fn a_typescript_fetch_client_compiles_and_works() {
    let Some(generators) = generators() else {
        return;
    };
    let host = TestHost::start();
    let folder = folder(&host, &["fetch.ts"]);
    run(
        Command::new(generators.join("python/bin/openapi-generator-cli"))
            .current_dir(folder.path())
            .args(["generate", "--generator-name", "typescript-fetch"])
            .args(["--input-spec", "openapi.json", "--output", "generated"]),
    );
    std::fs::write(
        folder.path().join("node.d.ts"),
        "declare const process: { argv: string[]; exitCode?: number };\n",
    )
    .expect("is written");
    run(Command::new(generators.join("node_modules/.bin/tsc"))
        .current_dir(folder.path())
        .args(["--strict", "--target", "es2022", "--module", "commonjs"])
        .args(["--lib", "es2022,dom,dom.iterable", "--outDir", "compiled"])
        .args(["fetch.ts", "node.d.ts"]));
    let said = run(Command::new("node").current_dir(folder.path()).args([
        "compiled/fetch.js",
        &host.url,
        &host.token,
    ]));
    assert!(
        said == "fetched waiting not-found\n" || said == "fetched running not-found\n",
        "{said}"
    );
}

#[test]
fn a_python_client_is_complete_and_works() {
    let Some(generators) = generators() else {
        return;
    };
    let host = TestHost::start();
    let folder = folder(&host, &["client.py", "python.yml"]);
    let programs = generators.join("python/bin");
    // A warning means that an operation or a response was left out. The generator formats with ruff,
    // which is beside it.
    let path = std::env::var("PATH").unwrap_or_default();
    run(Command::new(programs.join("openapi-python-client"))
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .args([
            "generate",
            "--path",
            "openapi.json",
            "--config",
            "python.yml",
            "--meta",
            "none",
            "--output-path",
            "stepwell_client",
            "--fail-on-warning",
        ]));
    let python = || {
        let mut python = Command::new(programs.join("python"));
        python.current_dir(folder.path()).env_remove("PYTHONPATH");
        python
    };
    run(python().args(["-m", "compileall", "-q", "stepwell_client"]));
    let said = run(python().args(["client.py", &host.url, &host.token]));
    assert_eq!(said.trim(), "default operator");
}
