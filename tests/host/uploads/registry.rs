//! The registry in this process, with a worker that waits for a signal before it compiles. So the
//! order of events does not depend on the machine's speed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::model::{Permission, PluginVersion, Principal};
use stepwell::monitor::Monitor;
use stepwell::plugins::{PluginGauges, Registry, UploadError, UploadOptions, UploadResult};
use stepwell::random::Random;
use stepwell::runtime::{Runtime, Services};
use stepwell::store::Store;
use stepwell::trace::Tracer;
use tempfile::TempDir;

use crate::harness::binary;
use crate::text_guest::{TextGuest, with_custom_section};

/// Components of at least this size, in bytes, wait for the file `gates/SIZE` or `gates/all`.
const GATED_BYTES: usize = 50_000;

struct Bench {
    folder: TempDir,
    config: Config,
    store: Store,
    runtime: Runtime,
    registry: Registry,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::defaults().expect("the defaults load");
        config.data_dir = folder.path().to_owned();
        let store = Store::open(&config, Clock::System).await.expect("opens");
        let services = Services {
            store: store.clone(),
            monitor: Monitor::new(Clock::System, config.limits.metric_series_max),
            clock: Clock::System,
            random: Random::System,
            limits: Arc::new(config.limits.clone()),
            tracer: Tracer::off(),
        };
        let runtime = Runtime::start(&config.runtime, services).expect("starts");
        fs::create_dir(folder.path().join("gates")).expect("is new");
        let script = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\nsize=$(stat -c %s \"$4\")\necho $size >>'{0}/started'\n\
             while [ $size -ge {GATED_BYTES} ] && [ ! -e '{0}'/gates/$size ] && [ ! -e '{0}/gates/all' ]; do\n\
             sleep 0.02\ndone\nexec '{1}' \"$@\"\n",
            folder.path().display(),
            binary()
        );
        let program = folder.path().join("worker");
        fs::write(&program, script).expect("writes");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("is ours");
        let registry = Registry::open(
            &config,
            program,
            Clock::System,
            store.clone(),
            runtime.clone(),
        )
        .expect("opens");
        Self {
            folder,
            config,
            store,
            runtime,
            registry,
        }
    }

    /// Returns another registry on the same data, with nothing in memory.
    fn reopened(&self) -> Registry {
        let program = self.folder.path().join("worker");
        Registry::open(
            &self.config,
            program,
            Clock::System,
            self.store.clone(),
            self.runtime.clone(),
        )
        .expect("opens")
    }

    async fn upload(&self, team: &str, component: &[u8]) -> Result<UploadResult, UploadError> {
        let principal = operator_of(team);
        let mut upload = self.registry.begin_upload(&principal.team)?;
        upload.write(component).await?;
        self.registry
            .upload(&principal, upload.finish().await?, UploadOptions::default())
            .await
    }

    /// Returns the sizes of the components that workers were started for, in order.
    fn started(&self) -> Vec<usize> {
        let told = fs::read_to_string(self.folder.path().join("started")).unwrap_or_default();
        told.lines()
            .map(|size| size.parse().expect("a number"))
            .collect()
    }

    fn open_gate(&self, name: &str) {
        fs::write(self.folder.path().join("gates").join(name), "").expect("writes");
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !reached(self) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    }

    fn files(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join(folder))
            .expect("is there")
            .count()
    }
}

fn operator_of(team: &str) -> Principal {
    let team = team.parse().expect("is a name");
    Principal {
        team,
        user: "somebody".to_owned(),
        permissions: vec![Permission::Operator],
        token: None,
    }
}

/// Returns a plugin of about this size, in bytes.
fn large(name: &str, bytes: usize) -> Vec<u8> {
    with_custom_section(TextGuest::named(name).bytes(), &"x".repeat(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_waits_for_one_compile_and_not_for_what_others_have_queued() {
    let bench = Arc::new(Bench::start().await);
    let mut uploads = Vec::new();
    let mut send = |team: String, component: Vec<u8>| {
        let bench = Arc::clone(&bench);
        uploads.push(tokio::spawn(async move {
            bench.upload(&team, &component).await.map(drop)
        }));
    };
    // Four teams with two large components each; the first compiles until the test lets it end.
    let mut firsts = BTreeSet::new();
    for round in 0..2 {
        for team in 0..4 {
            let component = large(
                &format!("p{round}{team}"),
                GATED_BYTES + 100 * team + 1_000 * round,
            );
            if round == 0 {
                firsts.insert(component.len());
            }
            send(format!("t{team}"), component);
            let queued = round * 4 + team;
            bench
                .until("a compile waits", |bench| {
                    let PluginGauges {
                        compiling,
                        compiles_waiting,
                        ..
                    } = bench.registry.gauges();
                    compiling == 1 && compiles_waiting == queued
                })
                .await;
        }
    }
    let small = TextGuest::named("small").bytes();
    let size = small.len();
    send("late".to_owned(), small);
    bench
        .until("all wait", |bench| {
            bench.registry.gauges().compiles_waiting == 8
        })
        .await;
    bench.open_gate("all");
    for upload in uploads {
        upload.await.expect("does not panic").expect("is taken in");
    }
    let started = bench.started();
    assert_eq!(
        (started.len(), started.get(1)),
        (9, Some(&size)),
        "{started:?}"
    );
    // Each team's first comes before any team's second.
    let order: Vec<_> = started.iter().filter(|started| **started != size).collect();
    assert!(
        order.iter().take(4).all(|size| firsts.contains(size)),
        "{started:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_component_twice_at_once_is_compiled_once() {
    let bench = Arc::new(Bench::start().await);
    let component = large("twin", GATED_BYTES);
    // Of one team: the duration must not reveal what another team has compiled.
    let uploads = ["one", "one"].map(|team| {
        let (bench, component) = (Arc::clone(&bench), component.clone());
        tokio::spawn(async move { bench.upload(team, &component).await })
    });
    bench
        .until("both are there", |bench| {
            bench.registry.gauges().uploads == 2 && !bench.started().is_empty()
        })
        .await;
    bench.open_gate("all");
    for upload in uploads {
        let verdict = upload.await.expect("does not panic").expect("is taken in");
        assert_eq!(verdict.plugin.manifest.name.as_str(), "twin");
    }
    assert_eq!(bench.started().len(), 1);
    assert_eq!(
        (bench.files("compiled"), bench.registry.gauges().loaded),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_compiled_again_holds_up_no_other() {
    let bench = Bench::start().await;
    bench.open_gate("all");
    let slow = bench
        .upload("one", &large("slow", GATED_BYTES))
        .await
        .expect("is taken in")
        .plugin;
    let quick = bench
        .upload("two", &TextGuest::named("quick").bytes())
        .await
        .expect("is taken in")
        .plugin;
    let code = |version: &PluginVersion| {
        let hash = Sha256::new()
            .chain_update(version.team.as_str())
            .chain_update([0])
            .chain_update(&version.digest);
        let name: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        bench.folder.path().join(format!("compiled/{name}.code"))
    };
    fs::remove_file(code(&slow)).expect("is there");
    fs::remove_file(bench.folder.path().join("gates/all")).expect("is there");
    let registry = bench.reopened();
    let loading = {
        let (registry, slow) = (registry.clone(), slow.clone());
        tokio::spawn(async move { registry.load(&slow).await.map(drop) })
    };
    bench
        .until("it is being compiled", |bench| bench.started().len() == 3)
        .await;
    registry.load(&quick).await.expect("loads from its file");
    assert!(!loading.is_finished(), "the gate is closed");
    bench.open_gate("all");
    loading
        .await
        .expect("does not panic")
        .expect("is compiled again");
    assert!(code(&slow).exists());
    assert_eq!(bench.files("uploads"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_leaves_no_code_in_memory_and_no_file() {
    let bench = Bench::start().await;
    let traps = TextGuest {
        describe: "unreachable".to_owned(),
        ..TextGuest::named("refused")
    };
    let nameless = TextGuest {
        name: "No Name".to_owned(),
        ..TextGuest::named("refused")
    };
    for (guest, code) in [(traps, "describe-failed"), (nameless, "invalid-manifest")] {
        let error = bench
            .upload("one", &guest.bytes())
            .await
            .expect_err("is refused");
        assert_eq!(error.code(), code, "{error}");
        let PluginGauges {
            uploads,
            upload_bytes,
            compiling,
            compiles_waiting,
            loaded,
        } = bench.registry.gauges();
        assert_eq!(
            (uploads, upload_bytes, compiling, compiles_waiting, loaded),
            (0, 0, 0, 0, 0),
            "{code}"
        );
        assert_eq!(
            (bench.files("compiled"), bench.files("uploads")),
            (0, 0),
            "{code}"
        );
    }
    bench
        .upload("one", &TextGuest::named("good").bytes())
        .await
        .expect("is taken in");
    assert_eq!(
        (
            bench.registry.gauges().loaded,
            bench.files("compiled"),
            bench.files("uploads")
        ),
        (1, 1, 0)
    );
    // The version is there with other bytes: compiled, described, and refused.
    let error = bench
        .upload("one", &large("good", 100))
        .await
        .expect_err("is a conflict");
    assert_eq!(
        (
            error.code(),
            bench.registry.gauges().loaded,
            bench.files("compiled")
        ),
        ("version-conflict", 1, 1)
    );
}
