//! Tests of one cache: expiry, bounds, absence, statistics, and single flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::flight::{Flight, Join};
use super::kind::{AnyCache as _, Cache, Loaded, Settings};
use super::stats::{CacheKind, CacheStats};
use crate::clock::{Clock, Timestamp};
use crate::config::{CacheKindConfig, Config};
use crate::model::Name;
use crate::store::{Store, StoreError};

type Key = (Name, u32);

const TTL: Duration = Duration::from_secs(60);
const ABSENCE_TTL: Duration = Duration::from_secs(5);
const KIND: CacheKind = CacheKind::Instances;

struct Fixture {
    cache: Arc<Cache<Key, u64>>,
    clock: Clock,
}

fn name(text: &str) -> Name {
    text.parse().expect("is a name")
}

fn key(number: u32) -> Key {
    (name("acme"), number)
}

fn with(entries: u64, bytes: u64, absence_ttl: Duration) -> Fixture {
    let clock = Clock::manual(Timestamp::from_micros(1_000_000));
    let bounds = CacheKindConfig {
        entries,
        bytes,
        ttl: TTL,
    };
    let settings = Settings {
        bounds: &bounds,
        absence_ttl,
        clock: clock.clone(),
        sampled_keys_max: 1_024,
    };
    Fixture {
        cache: Cache::new(settings, |(team, _), _| Some(team)),
        clock,
    }
}

fn roomy() -> Fixture {
    with(10_000, 1 << 30, ABSENCE_TTL)
}

impl Fixture {
    fn begin(&self, key: &Key, generation: u64) -> Flight<Key, u64> {
        match self.cache.join(key, generation) {
            Join::Load(flight) => flight,
            Join::Known(_) => panic!("{key:?} is known"),
            Join::Wait(_) => panic!("{key:?} is under way"),
        }
    }

    fn load(&self, number: u32, value: u64, bytes: usize) {
        let loaded = self
            .begin(&key(number), 0)
            .complete(Ok(Some(Loaded::new(value, bytes))));
        assert_eq!(loaded.expect("completes"), Some(value));
    }

    fn get(&self, number: u32) -> Option<Option<u64>> {
        self.cache.get(&key(number), 0)
    }

    fn stats(&self) -> CacheStats {
        self.cache.stats(KIND)
    }
}

#[test]
fn an_entry_is_served_until_its_time_is_over() {
    let fixture = roomy();
    fixture.load(1, 11, 8);
    fixture
        .clock
        .advance(TTL.mul_f64(0.9) - Duration::from_micros(1));
    assert_eq!(
        fixture.get(1),
        Some(Some(11)),
        "jitter takes a tenth at most"
    );
    fixture
        .clock
        .advance(TTL.mul_f64(0.1) + Duration::from_micros(1));
    assert_eq!(fixture.get(1), None);
    fixture.load(1, 12, 8);
    assert_eq!(fixture.get(1), Some(Some(12)));
    let stats = fixture.stats();
    assert_eq!((stats.expired, stats.evictions, stats.entries), (1, 0, 1));
}

#[test]
fn what_was_loaded_together_runs_out_over_a_tenth_of_the_time() {
    let fixture = roomy();
    (0..1_000).for_each(|number| fixture.load(number, 0, 8));
    let alive = || {
        (0..1_000)
            .filter(|number| fixture.get(*number).is_some())
            .count()
    };
    fixture.clock.advance(TTL.mul_f64(0.9));
    let mut left = vec![alive()];
    for _ in 0..4 {
        fixture.clock.advance(TTL.mul_f64(0.025));
        left.push(alive());
    }
    for (left, about) in left.iter().zip([1_000_usize, 750, 500, 250, 0]) {
        assert!(
            left.abs_diff(about) <= 100,
            "{left} are left where {about} were expected"
        );
    }
}

#[test]
fn an_entry_with_a_deadline_of_its_own_is_gone_by_then() {
    let fixture = roomy();
    let until = fixture.clock.now().after(Duration::from_secs(3));
    let loaded = |value| Ok(Some(Loaded::new(value, 8).until(Some(until))));
    fixture
        .begin(&key(1), 0)
        .complete(loaded(11))
        .expect("completes");
    assert_eq!(fixture.get(1), Some(Some(11)));
    fixture.clock.advance(Duration::from_secs(3));
    assert_eq!(fixture.get(1), None);
    fixture
        .begin(&key(1), 0)
        .complete(loaded(11))
        .expect("completes");
    assert_eq!(fixture.get(1), None, "what has run out already is not kept");
}

#[test]
fn age_counts_from_the_read_and_not_from_its_answer() {
    let fixture = roomy();
    let slow = fixture.begin(&key(1), 0);
    fixture.clock.advance(TTL);
    slow.complete(Ok(Some(Loaded::new(1, 8))))
        .expect("completes");
    assert_eq!(fixture.get(1), None);
}

#[test]
fn absence_is_remembered_for_a_shorter_time_and_ends_with_creation() {
    let fixture = roomy();
    fixture
        .begin(&key(1), 0)
        .complete(Ok(None))
        .expect("completes");
    assert_eq!(fixture.get(1), Some(None));
    fixture.clock.advance(ABSENCE_TTL);
    assert_eq!(fixture.get(1), None);
    fixture
        .begin(&key(1), 0)
        .complete(Ok(None))
        .expect("completes");
    assert!(fixture.cache.invalidate(&key(1)), "creation throws it out");
    assert_eq!(fixture.get(1), None);
    let without = with(10, 1 << 20, Duration::ZERO);
    without
        .begin(&key(1), 0)
        .complete(Ok(None))
        .expect("completes");
    assert_eq!(without.get(1), None);
}

#[test]
fn many_small_entries_stay_within_the_number() {
    let fixture = with(100, 1 << 30, ABSENCE_TTL);
    (0..5_000).for_each(|number| fixture.load(number, 0, 8));
    let stats = fixture.stats();
    assert_eq!(
        (stats.entries, stats.entries + stats.evictions),
        (100, 5_000),
        "{stats:?}"
    );
}

#[test]
fn few_large_entries_stay_within_the_bytes() {
    let fixture = with(10_000, 1 << 20, ABSENCE_TTL);
    (0..500).for_each(|number| fixture.load(number, 0, 100_000));
    let stats = fixture.stats();
    assert_eq!(
        (stats.entries, stats.entries + stats.evictions),
        (10, 500),
        "{stats:?}"
    );
    assert!(stats.bytes > 900_000 && stats.bytes <= 1 << 20, "{stats:?}");
    let huge = with(10_000, 1 << 20, ABSENCE_TTL);
    huge.load(1, 0, 1 << 20);
    assert_eq!(
        (huge.stats().entries, huge.stats().evictions),
        (0, 1),
        "it is larger than the whole cache"
    );
}

#[test]
fn a_mixture_stays_within_both_and_uses_half_of_one() {
    let fixture = with(200, 1 << 20, ABSENCE_TTL);
    (0..2_000)
        .for_each(|number| fixture.load(number, 0, if number % 10 == 0 { 20_000 } else { 8 }));
    let stats = fixture.stats();
    assert!(stats.entries <= 200 && stats.bytes <= 1 << 20, "{stats:?}");
    assert!(stats.entries >= 90 || stats.bytes >= 450_000, "{stats:?}");
}

#[test]
fn what_is_used_stays_when_many_others_pass_by_once() {
    let fixture = with(100, 1 << 30, ABSENCE_TTL);
    (0..50).for_each(|number| fixture.load(number, 0, 8));
    for number in 1_000..3_000 {
        fixture.load(number, 0, 8);
        assert!((0..50).all(|number| fixture.get(number).is_some()));
    }
    assert_eq!(
        (0..50)
            .filter(|number| fixture.get(*number).is_some())
            .count(),
        50
    );
}

#[test]
fn others_join_a_load_until_it_is_out_of_date() {
    let fixture = roomy();
    let first = fixture.begin(&key(1), 0);
    assert!(matches!(fixture.cache.join(&key(1), 0), Join::Wait(_)));
    assert!(!fixture.cache.invalidate(&key(1)), "there is no entry yet");
    let second = fixture.begin(&key(1), 0);
    first
        .complete(Ok(Some(Loaded::new(1, 8))))
        .expect("completes");
    assert_eq!(
        fixture.get(1),
        None,
        "it began before the write was acknowledged"
    );
    second
        .complete(Ok(Some(Loaded::new(2, 8))))
        .expect("completes");
    assert_eq!(fixture.get(1), Some(Some(2)));
    let stats = fixture.stats();
    assert_eq!(
        (stats.stale, stats.coalesced, stats.misses, stats.loads),
        (1, 1, 3, 2)
    );
}

#[test]
fn lists_of_an_older_generation_are_neither_served_nor_joined() {
    let fixture = roomy();
    let get = |generation| fixture.cache.get(&key(1), generation);
    fixture
        .begin(&key(1), 3)
        .complete(Ok(Some(Loaded::new(30, 8))))
        .expect("completes");
    assert_eq!(
        (get(3), get(2)),
        (Some(Some(30)), Some(Some(30))),
        "newer than asked for is as good"
    );
    assert_eq!(get(4), None);
    let old = fixture.begin(&key(1), 4);
    let new = fixture.begin(&key(1), 5);
    old.complete(Ok(Some(Loaded::new(40, 8))))
        .expect("completes");
    assert_eq!(get(4), None);
    new.complete(Ok(Some(Loaded::new(50, 8))))
        .expect("completes");
    assert_eq!(get(5), Some(Some(50)));
    let stats = fixture.stats();
    assert_eq!(
        (stats.entries, stats.invalidated, stats.evictions),
        (1, 1, 0),
        "{stats:?}"
    );
}

#[tokio::test]
async fn those_who_wait_learn_how_the_load_ended() {
    let fixture = roomy();
    let wait = || match fixture.cache.join(&key(1), 0) {
        Join::Wait(waiter) => waiter.result(),
        _ => panic!("a load is under way"),
    };
    let flight = fixture.begin(&key(1), 0);
    let (loaded, late) = (wait(), wait());
    flight
        .complete(Ok(Some(Loaded::new(1, 8))))
        .expect("completes");
    assert_eq!(loaded.await.expect("completes").expect("is fine"), Some(1));
    assert_eq!(late.await.expect("completes").expect("is fine"), Some(1));
    fixture.cache.invalidate(&key(1));
    let flight = fixture.begin(&key(1), 0);
    let failed = wait();
    flight
        .complete(Err(StoreError::Closed))
        .expect_err("failed");
    assert!(matches!(failed.await, Some(Err(StoreError::Closed))));
    let flight = fixture.begin(&key(1), 0);
    let broken_off = wait();
    drop(flight);
    assert!(broken_off.await.is_none());
    drop(fixture.begin(&key(1), 0));
}

#[test]
fn a_shard_that_is_full_of_loads_lets_others_load_alone() {
    let fixture = roomy();
    let flights: Vec<_> = (0..10_000)
        .map(|number| fixture.begin(&key(number), 0))
        .collect();
    // 64 shards of 64 loads can be joined; the other loads cannot.
    let joined = (0..10_000)
        .filter(|number| matches!(fixture.cache.join(&key(*number), 0), Join::Wait(_)))
        .count();
    assert_eq!(joined, 4_096);
    for flight in flights {
        flight
            .complete(Ok(Some(Loaded::new(1, 8))))
            .expect("completes");
    }
    assert_eq!(
        (0..10_000)
            .filter(|number| fixture.get(*number).is_some())
            .count(),
        4_096
    );
}

#[test]
fn clearing_and_cleaning_up_say_how_many_went() {
    let fixture = roomy();
    (0..30).for_each(|number| fixture.load(number, 0, 8));
    let rival = (name("rival"), 1);
    fixture
        .begin(&rival, 0)
        .complete(Ok(Some(Loaded::new(1, 8))))
        .expect("completes");
    let under_way = fixture.begin(&key(99), 0);
    assert_eq!(fixture.cache.clear(Some(&name("acme"))), 30);
    under_way
        .complete(Ok(Some(Loaded::new(1, 8))))
        .expect("completes");
    assert_eq!(
        (fixture.get(99), fixture.cache.get(&rival, 0)),
        (None, Some(Some(1)))
    );
    assert_eq!(fixture.cache.clear(None), 1);
    (0..1_500).for_each(|number| fixture.load(number, 0, 8));
    assert_eq!(fixture.cache.clean_up(), 0);
    fixture.clock.advance(TTL);
    assert_eq!(fixture.cache.clean_up(), 1_500);
    let stats = fixture.stats();
    assert_eq!((stats.entries, stats.bytes), (0, 0));
    assert_eq!(
        (stats.invalidated, stats.expired, stats.evictions),
        (31, 1_500, 0)
    );
}

#[test]
fn hits_misses_and_saved_time_are_counted() {
    let fixture = roomy();
    fixture.load(1, 1, 8);
    assert!((0..3).all(|_| fixture.get(1).is_some()));
    let stats = fixture.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.hit_rate, stats.loads),
        (3, 1, Some(0.75), 1)
    );
    assert!(stats.load_avg_us > 0.0);
    assert_eq!(stats.saved_us, (3.0 * stats.load_avg_us) as u64);
    assert_eq!(
        (stats.entries_max, stats.bytes_max, stats.ttl_ms),
        (10_000, 1 << 30, 60_000)
    );
    assert_eq!(roomy().stats().hit_rate, None);
}

/// A store, and one of its caches whose loads are counted.
struct Loading {
    store: Store,
    cache: Arc<Cache<Key, u64>>,
    loads: Arc<AtomicU64>,
}

impl Loading {
    async fn new() -> Self {
        let config = Config::defaults().expect("the defaults load");
        let store = Store::open_in_memory(&config, Clock::System)
            .await
            .expect("opens");
        Self {
            store,
            cache: roomy().cache,
            loads: Arc::default(),
        }
    }

    /// Starts a hundred tasks that read one key. The load continues once all of them wait for it.
    fn ask_a_hundred_times(
        &self,
        end: fn() -> Result<Option<Loaded<u64>>, StoreError>,
    ) -> JoinSet<Asked> {
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let (store, cache, loads) = (
                self.store.clone(),
                Arc::clone(&self.cache),
                Arc::clone(&self.loads),
            );
            let waiting = Arc::clone(&self.cache);
            tasks.spawn(async move {
                let load = |_, _| async move {
                    loads.fetch_add(1, Ordering::SeqCst);
                    while waiting.counters().coalesced.load(Ordering::SeqCst) < 99 {
                        tokio::task::yield_now().await;
                    }
                    end()
                };
                store.cached(&cache, key(1), 0, load).await
            });
        }
        tasks
    }
}

type Asked = Result<Option<u64>, StoreError>;

#[tokio::test]
async fn a_hundred_who_miss_at_once_load_once() {
    let loading = Loading::new().await;
    for asked in loading
        .ask_a_hundred_times(|| Ok(Some(Loaded::new(7, 8))))
        .join_all()
        .await
    {
        assert_eq!(asked.expect("loads"), Some(7));
    }
    assert_eq!(loading.loads.load(Ordering::SeqCst), 1);
    assert_eq!(loading.cache.get(&key(1), 0), Some(Some(7)));
}

#[tokio::test]
async fn a_load_that_fails_tells_all_who_wait() {
    let loading = Loading::new().await;
    for asked in loading
        .ask_a_hundred_times(|| Err(StoreError::Value("no".to_owned())))
        .join_all()
        .await
    {
        assert!(matches!(asked, Err(StoreError::Value(_))));
    }
    assert_eq!(loading.loads.load(Ordering::SeqCst), 1);
    assert_eq!(loading.cache.get(&key(1), 0), None);
}

#[tokio::test]
async fn a_load_that_panics_leaves_nobody_waiting() {
    let loading = Loading::new().await;
    for asked in loading
        .ask_a_hundred_times(|| panic!("on purpose"))
        .join_all()
        .await
    {
        assert!(matches!(asked, Err(StoreError::Corrupt(_))));
    }
    assert!(
        matches!(loading.cache.join(&key(1), 0), Join::Load(_)),
        "the key is free"
    );
}

#[tokio::test]
async fn those_who_wait_are_answered_though_the_first_to_ask_goes_away() {
    let loading = Loading::new().await;
    let (begun, begins) = oneshot::channel();
    let (go_on, goes_on) = oneshot::channel();
    let (store, cache) = (loading.store.clone(), Arc::clone(&loading.cache));
    let first = tokio::spawn(async move {
        let load = |_, _| async move {
            begun.send(()).expect("is awaited");
            goes_on.await.expect("is told");
            Ok(Some(Loaded::new(7, 8)))
        };
        store.cached(&cache, key(1), 0, load).await
    });
    begins.await.expect("begins");
    let Join::Wait(waiter) = loading.cache.join(&key(1), 0) else {
        panic!("the load is under way")
    };
    first.abort();
    assert!(first.await.expect_err("is over").is_cancelled());
    go_on.send(()).expect("is awaited");
    assert_eq!(
        waiter.result().await.expect("completes").expect("is fine"),
        Some(7)
    );
    assert_eq!(loading.cache.get(&key(1), 0), Some(Some(7)));
}

/// Keys are read in a loop, more than fit and fewer than eight times as many.
#[test]
fn a_cache_that_is_too_small_is_advised_to_grow_and_one_that_is_too_large_to_shrink() {
    for (entries, expected) in [(2_000, 6_000..10_000), (30_000, 6_000..10_000)] {
        let fixture = with(entries, 1 << 40, ABSENCE_TTL);
        for number in (0..6).flat_map(|_| 0..8_000) {
            if fixture.get(number).is_none() {
                fixture.load(number, 1, 100);
            }
        }
        let advice = fixture.cache.advice(KIND);
        assert!(advice.sampled_keys > 64, "{advice:?}");
        let suggested = advice
            .suggestion
            .and_then(|suggestion| suggestion.entries)
            .expect("there is something better");
        assert!(expected.contains(&suggested), "{advice:?}");
        // Every key was read six times, and only the first read was a cold miss.
        assert!((advice.misses.cold - 1.0 / 6.0).abs() < 0.05, "{advice:?}");
        assert!(
            advice.misses.expired < 1e-9 && advice.misses.invalidated < 1e-9,
            "{advice:?}"
        );
    }
}

#[test]
fn what_changes_between_two_reads_is_no_reason_for_a_larger_cache() {
    let fixture = with(20_000, 1 << 40, ABSENCE_TTL);
    for number in (0..6).flat_map(|_| 0..8_000) {
        if fixture.get(number).is_none() {
            fixture.load(number, 1, 100);
        }
        fixture.cache.invalidate(&key(number));
    }
    let advice = fixture.cache.advice(KIND);
    assert!(
        (advice.misses.invalidated - 5.0 / 6.0).abs() < 0.05,
        "{advice:?}"
    );
    assert!(
        advice.curve.iter().all(|point| point.hit_rate < 0.05),
        "{advice:?}"
    );
}

#[test]
fn reads_soon_after_the_time_are_a_reason_for_a_longer_one() {
    let fixture = with(20_000, 1 << 40, ABSENCE_TTL);
    for round in 0..6 {
        for number in 0..8_000 {
            if fixture.get(number).is_none() {
                fixture.load(number, 1, 100);
            }
        }
        fixture
            .clock
            .advance(if round < 4 { TTL + TTL / 2 } else { TTL * 3 });
    }
    let advice = fixture.cache.advice(KIND);
    assert!(
        (advice.misses.expired - 5.0 / 6.0).abs() < 0.05,
        "{advice:?}"
    );
    let suggestion = advice.suggestion.expect("there is something better");
    assert_eq!(suggestion.ttl_ms, Some(120_000), "{advice:?}");
    // The time to live of tokens limits how long a revoked token works, so no longer one is
    // suggested.
    let tokens = fixture.cache.advice(CacheKind::Tokens);
    assert_eq!(
        tokens.suggestion.and_then(|suggestion| suggestion.ttl_ms),
        None,
        "{tokens:?}"
    );
}
