//! Hit rates of the caches under a Zipf load. They are compared with a strict LRU of equal size
//! that sees the same requests, and with the ideal cache, which always holds the most requested
//! keys.
//!
//! Each load runs with three exponents. In the first load the cache holds a tenth of the keys. In
//! the second it has its default capacity, which exceeds the number of keys, and one request in
//! 1,000 applies a new version of the workflow that it would have read. That evicts the definition
//! and adds a version that was never read. The first quarter of the requests only fills the cache.
//! The benchmark runs only on SQLite, because both databases have the same caches.

use hashlink::LruCache;
use stepwell::config::Config;
use stepwell::store::Store;

use crate::databases::{Database, Kind, Place};
use crate::measure::table;
use crate::random::{Random, Zipf};
use crate::seed;
use crate::support::{AnyError, Options};

const EXPONENTS: [f64; 3] = [0.8, 1.0, 1.2];
const WORKFLOWS: usize = 10_000;

#[derive(Clone, Copy)]
enum Cached {
    Definitions,
    Versions,
}

/// The parameters of a sequence of requests.
#[derive(Clone, Copy)]
struct Load {
    keys: usize,
    /// The capacity of the cache; none for the default.
    capacity: Option<u64>,
    requests: usize,
    /// One request in this many applies a new version; none if no request does.
    applies: Option<usize>,
}

const LOADS: [Load; 2] = [
    Load {
        keys: WORKFLOWS,
        capacity: Some(1_000),
        requests: 80_000,
        applies: None,
    },
    Load {
        keys: 2_000,
        capacity: None,
        requests: 200_000,
        applies: Some(1_000),
    },
];

/// Numbers of requests and of hits.
#[derive(Clone, Copy, Default)]
struct Hits {
    ours: u64,
    lru: u64,
    asked: u64,
}

/// A database with the newest version of each workflow in it.
struct Subject {
    database: Database,
    newest: Vec<u32>,
}

pub async fn run(options: &Options) -> Result<(), AnyError> {
    let place = Place::open(Kind::Sqlite)?;
    let database = place.create().await?;
    let mut connection = database.connect().await?;
    seed::workflows(&mut connection, WORKFLOWS as u64).await?;
    connection.close().await?;
    let mut subject = Subject {
        database,
        newest: vec![1; WORKFLOWS],
    };
    let mut table = table([
        "cache",
        "keys",
        "capacity",
        "exponent",
        "ours",
        "strict LRU",
        "ideal",
    ]);
    for cached in [Cached::Definitions, Cached::Versions] {
        for load in LOADS {
            let load = Load {
                requests: load.requests / if options.quick { 20 } else { 1 },
                ..load
            };
            for exponent in EXPONENTS {
                let zipf = Zipf::new(load.keys, exponent);
                let (capacity, hits) = subject.measure(cached, load, &zipf).await?;
                let percent = |share: f64| format!("{:.1} %", 100.0 * share);
                table.add_row([
                    cached.name().to_owned(),
                    load.keys.to_string(),
                    capacity.to_string(),
                    format!("{exponent:.1}"),
                    percent(hits.ours as f64 / hits.asked as f64),
                    percent(hits.lru as f64 / hits.asked as f64),
                    percent(zipf.share_of_first(capacity)),
                ]);
            }
        }
    }
    crate::print("hit rates", &table);
    Ok(())
}

impl Cached {
    fn name(self) -> &'static str {
        match self {
            Self::Definitions => "workflows",
            Self::Versions => "workflow_versions",
        }
    }

    /// Returns the number of hits so far.
    fn hits(self, store: &Store) -> Result<u64, AnyError> {
        let stats = store
            .cache_stats()
            .into_iter()
            .find(|stats| stats.kind == self.name());
        Ok(stats.ok_or("there is such a cache")?.hits)
    }
}

impl Subject {
    /// Runs the load. Returns the capacity of the cache with the numbers.
    async fn measure(
        &mut self,
        cached: Cached,
        load: Load,
        zipf: &Zipf,
    ) -> Result<(usize, Hits), AnyError> {
        let defaults = Config::defaults()?.cache;
        let cache = &mut self.database.config.cache;
        let (entries, default) = match cached {
            Cached::Definitions => (&mut cache.workflows.entries, defaults.workflows.entries),
            Cached::Versions => (
                &mut cache.workflow_versions.entries,
                defaults.workflow_versions.entries,
            ),
        };
        *entries = load.capacity.unwrap_or(default);
        let capacity = usize::try_from(*entries)?;
        let store = self.database.open().await?;
        let mut lru = LruCache::new(capacity);
        let (mut random, mut hits, mut before) = (Random(42), Hits::default(), 0);
        for request in 0..load.requests {
            if request == load.requests / 4 {
                (hits, before) = (Hits::default(), cached.hits(&store)?);
            }
            let number = zipf.draw(&mut random);
            let newest = self
                .newest
                .get_mut(number)
                .ok_or("there is no such workflow")?;
            let (team, name) = seed::workflow(number as u64);
            if load
                .applies
                .is_some_and(|applies| request % applies == applies - 1)
            {
                let mut definition = seed::definition(&name);
                definition.source.description = format!("applied in request {request}");
                *newest = store
                    .apply_workflow(&team, definition, "operator")
                    .await?
                    .version
                    .version;
                // A version never changes, and the new version has another key.
                if matches!(cached, Cached::Definitions) {
                    lru.remove(&(number, 0));
                }
                continue;
            }
            let (found, key) = match cached {
                Cached::Definitions => (store.workflow(&team, &name).await?, (number, 0)),
                Cached::Versions => (
                    store.workflow_version(&team, &name, *newest).await?,
                    (number, *newest),
                ),
            };
            found.ok_or("a workflow is not there")?;
            hits.asked += 1;
            hits.lru += u64::from(lru.get(&key).is_some());
            lru.insert(key, ());
        }
        hits.ours = cached.hits(&store)? - before;
        store.close().await;
        Ok((capacity, hits))
    }
}
