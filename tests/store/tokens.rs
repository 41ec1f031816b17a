//! Tokens.

use std::time::Duration;

use stepwell::model::{Permission, Principal};
use stepwell::store::{NewToken, OperatorTokens, StoreError};
use uuid::Uuid;

use crate::databases::{START, on_both};
use crate::fixtures::{acme, name};

fn token(byte: u8) -> NewToken {
    let id = Uuid::now_v7();
    NewToken {
        id,
        hash: [byte; 32],
        principal: Principal {
            team: acme(),
            user: "ann".to_owned(),
            permissions: vec![Permission::WorkflowRead, Permission::ApprovalDecide],
            token: Some(id),
        },
        created_at: START,
        expires_at: Some(START.after(Duration::from_secs(60))),
    }
}

#[test]
fn a_token_names_its_principal_until_it_expires() {
    on_both(|store, clock| async move {
        assert!(!store.has_tokens().await.expect("reads"));
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_none()
        );
        let new = token(1);
        store.insert_token(new.clone()).await.expect("is stored");
        assert!(store.has_tokens().await.expect("reads"));
        for _ in 0..2 {
            let principal = store.principal_by_token_hash([1; 32]).await.expect("reads");
            assert_eq!(principal.as_deref(), Some(&new.principal));
        }
        clock.advance(Duration::from_secs(60));
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_none(),
            "from the cache"
        );
        store.clear_caches(None, None);
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_none(),
            "from the database"
        );
    });
}

#[test]
fn a_revoked_token_is_nobody_at_once() {
    on_both(|store, _| async move {
        let new = token(1);
        store.insert_token(new.clone()).await.expect("is stored");
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_some()
        );
        let rival = name("rival");
        assert!(matches!(
            store.revoke_token(Some(&rival), new.id, false).await,
            Err(StoreError::NotFound)
        ));
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_some()
        );
        store
            .revoke_token(Some(&acme()), new.id, false)
            .await
            .expect("is revoked");
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_none()
        );
        assert!(matches!(
            store.revoke_token(None, new.id, false).await,
            Err(StoreError::NotFound)
        ));
    });
}

#[test]
fn tokens_are_listed_by_team_without_their_hashes() {
    on_both(|store, _| async move {
        let (first, second) = (token(7), token(8));
        store.insert_token(first.clone()).await.expect("is stored");
        store.insert_token(second.clone()).await.expect("is stored");
        let listed = store.tokens(Some(&acme())).await.expect("lists");
        assert_eq!(
            listed.iter().map(|token| token.id).collect::<Vec<_>>(),
            [first.id, second.id]
        );
        let json = serde_json::to_string(&listed).expect("serializes");
        assert!(
            !json.contains("hash") && json.contains("approval_decide"),
            "{json}"
        );
        assert_eq!(store.tokens(None).await.expect("lists").len(), 2);
        assert!(
            store
                .tokens(Some(&name("rival")))
                .await
                .expect("lists")
                .is_empty()
        );
        let twice = NewToken {
            id: Uuid::now_v7(),
            ..first
        };
        assert!(matches!(
            store.insert_token(twice).await,
            Err(StoreError::Constraint(_))
        ));
    });
}

fn operator(byte: u8, expires_in: Option<u64>) -> NewToken {
    let mut token = token(byte);
    token.principal.permissions = vec![Permission::WorkflowRead, Permission::Operator];
    token.expires_at = expires_in.map(|seconds| START.after(Duration::from_secs(seconds)));
    token
}

#[test]
fn the_last_operator_token_goes_only_when_that_is_said() {
    on_both(|store, clock| async move {
        let (first, second, reader) = (operator(1, None), operator(2, Some(60)), token(3));
        for token in [&first, &second, &reader] {
            store.insert_token(token.clone()).await.expect("is stored");
        }
        let operators = store.operator_tokens().await.expect("reads");
        assert_eq!(
            operators,
            OperatorTokens {
                count: 2,
                last_expires_at: None
            }
        );
        clock.advance(Duration::from_secs(60));
        // The other token has expired, so this is the last one; an expired token does not count.
        assert!(matches!(
            store.revoke_token(None, first.id, false).await,
            Err(StoreError::LastOperator)
        ));
        assert!(
            store
                .principal_by_token_hash([1; 32])
                .await
                .expect("reads")
                .is_some()
        );
        store
            .revoke_token(None, second.id, false)
            .await
            .expect("is revoked");
        store
            .revoke_token(None, reader.id, false)
            .await
            .expect("is revoked");
        store
            .revoke_token(None, first.id, true)
            .await
            .expect("is revoked");
        let operators = store.operator_tokens().await.expect("reads");
        assert_eq!(
            operators,
            OperatorTokens {
                count: 0,
                last_expires_at: None
            }
        );
    });
}

#[test]
fn concurrent_mutual_revocations_leave_one_operator() {
    on_both(|store, _| async move {
        for round in 0..10 {
            let pair = [
                operator(2 * round, None),
                operator(2 * round + 1, Some(1_000_000)),
            ];
            for token in &pair {
                store.insert_token(token.clone()).await.expect("is stored");
            }
            let [one, other] = pair.map(|token| {
                let store = store.clone();
                tokio::spawn(async move { store.revoke_token(None, token.id, false).await })
            });
            let ends = [one.await.expect("no panic"), other.await.expect("no panic")];
            let refused = ends
                .iter()
                .filter(|end| matches!(end, Err(StoreError::LastOperator)))
                .count();
            assert_eq!(
                (refused, ends.iter().filter(|end| end.is_ok()).count()),
                (1, 1),
                "{ends:?}"
            );
            let [left] = store
                .tokens(None)
                .await
                .expect("lists")
                .try_into()
                .expect("one is left");
            store
                .revoke_token(None, stepwell::store::Token::clone(&left).id, true)
                .await
                .expect("is revoked");
        }
    });
}
