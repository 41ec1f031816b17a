//! Plugin storage: reads of steps, and lists of keys.

use std::time::Duration;

use stepwell::model::{EntryKey, Guard, Space, StorageWrite, WriteAction};
use stepwell::store::{CommitError, INVALID_VALUE};

use crate::databases::{START, on_both};
use crate::fixtures::{acme, guarded, instance, key, name, put, read, write};

fn fleeting(text: &str, value: &str, ttl_ms: u64) -> StorageWrite {
    let action = WriteAction::Put {
        value: value.as_bytes().to_vec(),
        ttl_ms: Some(ttl_ms),
    };
    StorageWrite {
        action,
        ..put(text, "")
    }
}

#[test]
fn an_entry_is_gone_at_its_deadline_whether_cached_or_not() {
    on_both(|store, clock| async move {
        let mut instance = instance(&store).await;
        let entries = vec![
            fleeting("cached", "x", 1_000),
            fleeting("uncached", "x", 1_000),
            put("kept", "x"),
        ];
        write(&store, &mut instance, entries, clock.now())
            .await
            .expect("commits");
        assert!(read(&store, "cached").await.is_some());
        clock.advance(Duration::from_millis(999));
        assert!(read(&store, "cached").await.is_some());
        clock.advance(Duration::from_millis(1));
        assert_eq!(read(&store, "cached").await, None);
        assert_eq!(read(&store, "uncached").await, None);
        let bucket = Space::Shared(name("ledger"));
        assert_eq!(
            store
                .storage_keys(&acme(), &bucket, "", None, 10)
                .await
                .expect("lists"),
            ["kept"]
        );
    });
}

#[test]
fn an_entry_past_its_deadline_counts_as_absent_in_a_commit() {
    on_both(|store, clock| async move {
        let mut instance = instance(&store).await;
        write(
            &store,
            &mut instance,
            vec![fleeting("seat", "41", 1_000)],
            clock.now(),
        )
        .await
        .expect("commits");
        let (_, version) = read(&store, "seat").await.expect("is there");
        clock.advance(Duration::from_secs(1));
        let expired = guarded(put("seat", "x"), Guard::Version(version));
        let error = write(&store, &mut instance, vec![expired], clock.now())
            .await
            .expect_err("is refused");
        assert!(matches!(error, CommitError::Conflict(_)), "{error}");
        let one = StorageWrite {
            action: WriteAction::Increment(1),
            ..put("seat", "")
        };
        write(
            &store,
            &mut instance,
            vec![guarded(one, Guard::Absent)],
            clock.now(),
        )
        .await
        .expect("commits");
        let (value, newer) = read(&store, "seat").await.expect("is there");
        assert_eq!(value, "1");
        assert!(newer > version);
    });
}

#[test]
fn an_increment_keeps_the_deadline() {
    on_both(|store, clock| async move {
        let mut instance = instance(&store).await;
        write(
            &store,
            &mut instance,
            vec![fleeting("window", "1", 1_000)],
            clock.now(),
        )
        .await
        .expect("commits");
        clock.advance(Duration::from_millis(500));
        let one = StorageWrite {
            action: WriteAction::Increment(1),
            ..put("window", "")
        };
        write(&store, &mut instance, vec![one], clock.now())
            .await
            .expect("commits");
        assert_eq!(
            read(&store, "window")
                .await
                .map(|(value, _)| value)
                .as_deref(),
            Some("2")
        );
        clock.advance(Duration::from_millis(500));
        assert_eq!(read(&store, "window").await, None);
    });
}

#[test]
fn versions_never_start_again_even_after_a_delete() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let mut last = 0;
        for round in 0..5 {
            // The clock stands still, and once even stands before the start.
            let now = if round == 3 {
                stepwell::clock::Timestamp::from_micros(1)
            } else {
                START
            };
            write(&store, &mut instance, vec![put("seat", "x")], now)
                .await
                .expect("commits");
            let (_, version) = read(&store, "seat").await.expect("is there");
            assert!(version > last, "{version} after {last}");
            last = version;
            let delete = StorageWrite {
                action: WriteAction::Delete,
                ..put("seat", "")
            };
            write(&store, &mut instance, vec![delete], now)
                .await
                .expect("commits");
            assert_eq!(read(&store, "seat").await, None);
        }
    });
}

#[test]
fn a_put_over_an_entry_from_the_future_still_counts_up() {
    on_both(|store, clock| async move {
        let mut instance = instance(&store).await;
        let future = START.after(Duration::from_secs(3_600));
        write(&store, &mut instance, vec![put("seat", "a")], future)
            .await
            .expect("commits");
        let (_, version) = read(&store, "seat").await.expect("is there");
        write(&store, &mut instance, vec![put("seat", "b")], clock.now())
            .await
            .expect("commits");
        let (value, newer) = read(&store, "seat").await.expect("is there");
        assert!(value == "b" && newer > version);
    });
}

#[test]
fn keys_are_listed_in_the_order_of_their_bytes() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let sorted = [
            "A", "B", "Z", "_", "a", "a b", "a-b", "aB", "ab", "z", "ß", "ä", "日", "😀",
        ];
        let mut expected: Vec<_> = sorted.map(str::to_owned).to_vec();
        expected.sort();
        let writes = sorted.iter().rev().map(|text| put(text, "x")).collect();
        write(&store, &mut instance, writes, START)
            .await
            .expect("commits");
        let bucket = Space::Shared(name("ledger"));
        assert_eq!(
            store
                .storage_keys(&acme(), &bucket, "", None, 100)
                .await
                .expect("lists"),
            expected
        );
        // Page by page.
        let mut paged: Vec<String> = Vec::new();
        loop {
            let after = paged.last().map(String::as_str);
            let page = store
                .storage_keys(&acme(), &bucket, "", after, 4)
                .await
                .expect("lists");
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected);
    });
}

#[test]
fn a_prefix_is_taken_literally() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let keys = [
            "100%",
            "100%_done",
            "100x",
            "a_b",
            "axb",
            "a\\b",
            "a'b",
            "\u{10ffff}1",
            "\u{10ffff}\u{10ffff}2",
        ];
        let writes = keys.iter().map(|text| put(text, "x")).collect();
        write(&store, &mut instance, writes, START)
            .await
            .expect("commits");
        let bucket = Space::Shared(name("ledger"));
        let cases: [(&str, &[&str]); 8] = [
            ("100%", &["100%", "100%_done"]),
            ("100%_", &["100%_done"]),
            ("a_", &["a_b"]),
            ("a\\", &["a\\b"]),
            ("a'", &["a'b"]),
            ("\u{10ffff}", &["\u{10ffff}1", "\u{10ffff}\u{10ffff}2"]),
            ("nothing", &[]),
            ("a\0", &[]),
        ];
        for (prefix, expected) in cases {
            let listed = store
                .storage_keys(&acme(), &bucket, prefix, None, 100)
                .await
                .expect("lists");
            assert_eq!(listed, expected, "{prefix:?}");
        }
    });
}

#[test]
fn spaces_and_teams_do_not_see_each_other() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let spaces = [
            Space::Instance(instance.id),
            Space::Plugin(name("ledger")),
            Space::Shared(name("ledger")),
        ];
        let in_space = |space: &Space| EntryKey {
            space: space.clone(),
            key: "k".to_owned(),
        };
        let writes = spaces.iter().map(|space| StorageWrite {
            key: in_space(space),
            ..put("", &space.to_string())
        });
        let writes = writes.collect();
        write(&store, &mut instance, writes, START)
            .await
            .expect("commits");
        let keys: Vec<_> = spaces.iter().map(in_space).collect();
        let values: Vec<_> = store.entries(&acme(), &keys).await.expect("reads");
        for (space, entry) in spaces.iter().zip(values) {
            assert_eq!(
                entry.map(|entry| entry.value),
                Some(space.to_string().into_bytes())
            );
        }
        let rival = name("rival");
        assert_eq!(
            store.entries(&rival, &keys).await.expect("reads"),
            [None, None, None]
        );
        for space in &spaces {
            assert!(
                store
                    .storage_keys(&rival, space, "", None, 10)
                    .await
                    .expect("lists")
                    .is_empty()
            );
        }
    });
}

#[test]
fn a_key_with_nul_is_rejected_and_is_never_there() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let error = write(&store, &mut instance, vec![put("a\0b", "x")], START)
            .await
            .expect_err("is refused");
        assert!(
            matches!(
                error,
                CommitError::Rejected {
                    code: INVALID_VALUE,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(read(&store, "a\0b").await, None);
    });
}

#[test]
fn one_key_twice_in_a_commit_is_rejected() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let error = write(
            &store,
            &mut instance,
            vec![put("a", "1"), put("a", "2")],
            START,
        )
        .await;
        assert!(
            matches!(
                error,
                Err(CommitError::Rejected {
                    code: INVALID_VALUE,
                    ..
                })
            ),
            "{error:?}"
        );
        assert_eq!(read(&store, "a").await, None);
    });
}

#[test]
fn many_entries_go_in_and_out_in_their_order() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let keys: Vec<_> = (0..7_000).map(|index| format!("key-{index}")).collect();
        let writes = keys.iter().map(|text| put(text, text)).collect();
        write(&store, &mut instance, writes, START)
            .await
            .expect("commits");
        let wanted: Vec<_> = keys.iter().rev().map(|text| key(text)).collect();
        let read = store.entries(&acme(), &wanted).await.expect("reads");
        for (key, entry) in wanted.iter().zip(read) {
            assert_eq!(
                entry.map(|entry| entry.value),
                Some(key.key.clone().into_bytes())
            );
        }
        let deletes = keys
            .iter()
            .map(|text| StorageWrite {
                action: WriteAction::Delete,
                ..put(text, "")
            })
            .collect();
        write(&store, &mut instance, deletes, START)
            .await
            .expect("commits");
        assert!(
            store
                .entries(&acme(), &wanted)
                .await
                .expect("reads")
                .iter()
                .all(Option::is_none)
        );
    });
}

#[test]
fn expired_entries_can_be_swept_and_others_stay() {
    on_both(|store, clock| async move {
        let mut instance = instance(&store).await;
        let entries = vec![
            fleeting("a", "x", 1),
            fleeting("b", "x", 1),
            fleeting("c", "x", 9_000),
            put("d", "x"),
        ];
        write(&store, &mut instance, entries, clock.now())
            .await
            .expect("commits");
        assert_eq!(store.delete_expired_entries(10).await.expect("sweeps"), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(store.delete_expired_entries(1).await.expect("sweeps"), 1);
        assert_eq!(store.delete_expired_entries(10).await.expect("sweeps"), 1);
        let bucket = Space::Shared(name("ledger"));
        assert_eq!(
            store
                .storage_keys(&acme(), &bucket, "", None, 10)
                .await
                .expect("lists"),
            ["c", "d"]
        );
    });
}
