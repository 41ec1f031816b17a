//! Token secrets: 256 random bits, shown once and stored as SHA-256.
//!
//! A fast hash is enough: 2^256 secrets cannot be tried, and a slow hash would slow every request.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::duration;

/// The prefix of every secret. Secret scanners find a committed token by it.
pub const PREFIX: &str = "sw_";
const RANDOM_BYTES: usize = 32;
const EXPIRES_IN_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// Generates a secret: `sw_` and 64 hexadecimal digits.
///
/// # Errors
/// The operating system's random number generator fails.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    let mut secret = String::with_capacity(PREFIX.len() + 2 * RANDOM_BYTES);
    secret.push_str(PREFIX);
    for byte in random {
        secret.extend(
            [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')),
        );
    }
    Ok(secret)
}

/// Parses the lifetime of a token: more than 0 and at most 3650 days.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(time) if !time.is_zero() && time <= EXPIRES_IN_MAX => Ok(time),
        Ok(_) => Err("'expires_in' must be more than 0 and at most 3650d".to_owned()),
        Err(problem) => Err(format!("'expires_in': {problem}")),
    }
}

/// Returns the hash under which the store keeps a secret. Returns none for malformed text, which
/// saves a look-up.
pub fn hash(secret: &str) -> Option<[u8; 32]> {
    let digits = secret.strip_prefix(PREFIX)?;
    let well_formed = digits.len() == 2 * RANDOM_BYTES
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    well_formed.then(|| Sha256::digest(secret.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_well_formed_and_new_each_time() {
        let (one, other) = (generate().expect("random"), generate().expect("random"));
        assert_ne!(one, other);
        assert_eq!(one.len(), 67);
        assert!(hash(&one).is_some());
        assert_ne!(hash(&one), hash(&other));
    }

    #[test]
    fn the_hash_is_the_one_of_the_whole_text() {
        let secret = format!("sw_{}", "0".repeat(64));
        let hexadecimal: String = hash(&secret)
            .expect("is well-formed")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hexadecimal,
            "7d9925d76e91c948598d25ad3a01f04338ca84307bb8ebf97afd42027782a2b4"
        );
    }

    #[test]
    fn what_cannot_be_a_secret_has_no_hash() {
        for text in [
            "",
            "sw_",
            "abc",
            &format!("sw_{}", "A".repeat(64)),
            &format!("sw_{}", "a".repeat(65)),
        ] {
            assert_eq!(hash(text), None, "{text}");
        }
    }
}
