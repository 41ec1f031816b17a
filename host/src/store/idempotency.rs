//! Requests with an `Idempotency-Key` that create something other than an instance. (The keys of
//! instances are columns of their own rows, see [`super::creation`].)
//!
//! The key is reserved before any work is done. Once the response is known it is stored, and
//! returned again for the same request with the same key. A reservation without a response means
//! that the request is still in progress or that its host died; the same request may then be tried
//! again.

use sqlx::{AssertSqlSafe, FromRow};

use super::backend::{Transaction, with_backend};
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::model::{Name, RequestHash};

/// The largest number of rows deleted in one transaction.
const DELETED_MAX: i64 = 1_000;

const KNOWN: &str =
    "SELECT request_hash, answer FROM idempotency_keys WHERE team = $1 AND route = $2 AND key = $3";
const RESERVE: &str = "INSERT INTO idempotency_keys (team, route, key, request_hash, created_at) \
    SELECT $1, $2, $3, $4, $5 WHERE (SELECT COUNT(*) FROM idempotency_keys WHERE team = $1) < $6 \
    ON CONFLICT (team, route, key) DO NOTHING";
/// Stores a response, unless one is already stored.
const ANSWER: &str = "UPDATE idempotency_keys SET answer = $4 \
    WHERE team = $1 AND route = $2 AND key = $3 AND answer IS NULL";
const RELEASE: &str = "DELETE FROM idempotency_keys \
    WHERE team = $1 AND route = $2 AND key = $3 AND request_hash = $4 AND answer IS NULL";
pub(super) const OLD: &str = "SELECT team, route, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2";

/// A request that must take effect only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    /// The caller's team.
    pub team: Name,
    /// The method and the pattern of the path, such as `POST /workflows`.
    pub route: &'static str,
    /// The client's key.
    pub key: String,
    /// The hash of the request.
    pub hash: RequestHash,
}

/// The state of a [`KeyedRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// The request is new, or its response is not known: process it.
    Open,
    /// The request was processed; this was the response.
    Answered(String),
    /// The key belongs to a different request.
    OtherRequest,
    /// The team has too many keys.
    Exhausted,
}

#[derive(FromRow)]
struct KnownRow {
    request_hash: Vec<u8>,
    answer: Option<String>,
}

impl Store {
    /// Reserves a key, unless its team already has `most` keys.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn reserve_idempotency_key(
        &self,
        request: KeyedRequest,
        most: u32,
    ) -> Result<Reservation, StoreError> {
        let (store, now) = (self.clone(), self.now());
        self.detached(async move {
            let KeyedRequest {
                team,
                route,
                key,
                hash,
            } = request;
            let mut transaction = store.core().backend.begin().await?;
            let reserved = with_backend!(transaction, c => sqlx::query(RESERVE)
                .bind(team.as_str())
                .bind(route)
                .bind(key.as_str())
                .bind(hash.as_slice())
                .bind(now.as_micros())
                .bind(i64::from(most))
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            if reserved > 0 {
                store.core().commit(transaction, &[]).await?;
                return Ok(Reservation::Open);
            }
            let known: Option<KnownRow> = with_backend!(transaction, c => sqlx::query_as(KNOWN)
                .bind(team.as_str())
                .bind(route)
                .bind(key.as_str())
                .fetch_optional(c)
                .await)?;
            transaction.rollback().await?;
            Ok(match known {
                None => Reservation::Exhausted,
                Some(row) if row.request_hash != hash => Reservation::OtherRequest,
                Some(KnownRow {
                    answer: Some(answer),
                    ..
                }) => Reservation::Answered(answer),
                Some(_) => Reservation::Open,
            })
        })
        .await
    }

    /// Stores the response to a request whose key is reserved. A response that is already stored
    /// stays.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn keep_answer(
        &self,
        request: KeyedRequest,
        answer: String,
    ) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            keep(&mut transaction, &request, &answer).await?;
            store.core().commit(transaction, &[]).await
        })
        .await
    }

    /// Releases the key of a request that had no effect, so that a corrected request may use the
    /// key.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn release_idempotency_key(&self, request: KeyedRequest) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let KeyedRequest {
                team,
                route,
                key,
                hash,
            } = request;
            let mut transaction = store.core().backend.begin().await?;
            with_backend!(transaction, c => sqlx::query(RELEASE)
                .bind(team.as_str())
                .bind(route)
                .bind(key.as_str())
                .bind(hash.as_slice())
                .execute(c)
                .await
                .map(|_| ()))?;
            store.core().commit(transaction, &[]).await
        })
        .await
    }

    /// Deletes the oldest keys reserved before `before`, at most 1,000, and returns their number; 0
    /// means that none are left.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_old_idempotency_keys(&self, before: Timestamp) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let sql = format!("DELETE FROM idempotency_keys WHERE (team, route, key) IN ({OLD})");
            let deleted = with_backend!(transaction, c => sqlx::query(AssertSqlSafe(sql))
                .bind(before.as_micros())
                .bind(DELETED_MAX)
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}

/// Stores the response in an open transaction. Returns false if a response is already stored, or if
/// the key is not reserved.
pub(super) async fn keep(
    transaction: &mut Transaction,
    request: &KeyedRequest,
    answer: &str,
) -> Result<bool, StoreError> {
    let kept = with_backend!(transaction, c => sqlx::query(ANSWER)
        .bind(request.team.as_str())
        .bind(request.route)
        .bind(request.key.as_str())
        .bind(answer)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    Ok(kept > 0)
}
