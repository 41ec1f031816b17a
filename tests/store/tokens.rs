//! Tokens.

use std::time::Duration;

use stepwell::model::{Permission, Principal};
use stepwell::store::{NewToken, StoreError};
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
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_none());
        let new = token(1);
        store.insert_token(new.clone()).await.expect("is stored");
        assert!(store.has_tokens().await.expect("reads"));
        for _ in 0..2 {
            let principal = store.principal_by_token_hash([1; 32]).await.expect("reads");
            assert_eq!(principal.as_deref(), Some(&new.principal));
        }
        clock.advance(Duration::from_secs(60));
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_none(), "from the cache");
        store.clear_caches(None, None);
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_none(), "from the database");
    });
}

#[test]
fn a_revoked_token_is_nobody_at_once() {
    on_both(|store, _| async move {
        let new = token(1);
        store.insert_token(new.clone()).await.expect("is stored");
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_some());
        let rival = name("rival");
        assert!(matches!(store.revoke_token(Some(&rival), new.id).await, Err(StoreError::NotFound)));
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_some());
        store.revoke_token(Some(&acme()), new.id).await.expect("is revoked");
        assert!(store.principal_by_token_hash([1; 32]).await.expect("reads").is_none());
        assert!(matches!(store.revoke_token(None, new.id).await, Err(StoreError::NotFound)));
    });
}

#[test]
fn tokens_are_listed_by_team_without_their_hashes() {
    on_both(|store, _| async move {
        let (first, second) = (token(7), token(8));
        store.insert_token(first.clone()).await.expect("is stored");
        store.insert_token(second.clone()).await.expect("is stored");
        let listed = store.tokens(Some(&acme())).await.expect("lists");
        assert_eq!(listed.iter().map(|token| token.id).collect::<Vec<_>>(), [first.id, second.id]);
        let json = serde_json::to_string(&listed).expect("serializes");
        assert!(!json.contains("hash") && json.contains("approval_decide"), "{json}");
        assert_eq!(store.tokens(None).await.expect("lists").len(), 2);
        assert!(store.tokens(Some(&name("rival"))).await.expect("lists").is_empty());
        let twice = NewToken { id: Uuid::now_v7(), ..first };
        assert!(matches!(store.insert_token(twice).await, Err(StoreError::Constraint(_))));
    });
}
