//! Operations on buckets.

use serde::Deserialize;
use stepwell_guest::HostError;
use stepwell_guest::serde_json::{Value, json};
use stepwell_guest::storage::{Bucket, Entry, Put};

use crate::text::{Text, Texts};

/// The longest value that a result contains, in bytes. Of a longer value it has only the length, so
/// a test of large values needs no large output.
const SHOWN_BYTES_MAX: usize = 1_024;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Space {
    Instance,
    Plugin,
    Shared(String),
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PutSource {
    key: Text,
    value: Text,
    ttl_ms: Option<u64>,
    if_version: Option<u64>,
}

/// A list of puts, or `{"prefix": "key-", "count": 1001, "value": "x"}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Puts {
    Listed(Vec<PutSource>),
    Counted {
        prefix: String,
        count: usize,
        value: Text,
    },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum StorageOperation {
    /// Holds `times` handles at a time.
    Open {
        space: Space,
        times: usize,
    },
    Get {
        space: Space,
        key: Text,
    },
    GetMany {
        space: Space,
        keys: Texts,
    },
    Set {
        space: Space,
        #[serde(flatten)]
        put: PutSource,
    },
    SetMany {
        space: Space,
        puts: Puts,
    },
    Delete {
        space: Space,
        key: Text,
    },
    DeleteMany {
        space: Space,
        keys: Texts,
    },
    Increment {
        space: Space,
        key: Text,
        delta: i64,
    },
    List {
        space: Space,
        prefix: Text,
        after: Option<Text>,
        limit: u32,
    },
}

impl StorageOperation {
    /// The names of the variants, by which the type of an operation is chosen.
    pub(crate) const NAMES: [&str; 9] = [
        "open",
        "get",
        "get-many",
        "set",
        "set-many",
        "delete",
        "delete-many",
        "increment",
        "list",
    ];

    pub(crate) fn run(&self) -> Result<Value, HostError> {
        match self {
            Self::Open { space, times } => {
                let handles = (0..*times)
                    .map(|_| space.open())
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(json!(handles.len()))
            }
            Self::Get { space, key } => Ok(shown(space.open()?.get(&key.0)?.as_ref())),
            Self::GetMany { space, keys } => {
                let entries = space.open()?.get_many(&keys.to_strings())?;
                Ok(entries.iter().map(|entry| shown(entry.as_ref())).collect())
            }
            Self::Set { space, put } => done(space.open()?.put(&put.to_put())),
            Self::SetMany { space, puts } => done(space.open()?.set_many(&puts.to_puts())),
            Self::Delete { space, key } => done(space.open()?.delete(&key.0)),
            Self::DeleteMany { space, keys } => done(space.open()?.delete_many(&keys.to_strings())),
            Self::Increment { space, key, delta } => done(space.open()?.increment(&key.0, *delta)),
            Self::List {
                space,
                prefix,
                after,
                limit,
            } => {
                let page = space.open()?.list(
                    &prefix.0,
                    after.as_ref().map(|text| text.0.as_str()),
                    *limit,
                )?;
                Ok(json!({ "keys": page.keys, "next": page.next }))
            }
        }
    }
}

impl Space {
    fn open(&self) -> Result<Bucket, HostError> {
        match self {
            Self::Instance => Bucket::open_instance(),
            Self::Plugin => Bucket::open_plugin(),
            Self::Shared(name) => Bucket::open_shared(name),
        }
    }
}

impl PutSource {
    fn to_put(&self) -> Put {
        let (key, value) = (self.key.0.clone(), self.value.0.clone().into_bytes());
        Put {
            key,
            value,
            ttl_ms: self.ttl_ms,
            if_version: self.if_version,
        }
    }
}

impl Puts {
    fn to_puts(&self) -> Vec<Put> {
        match self {
            Self::Listed(puts) => puts.iter().map(PutSource::to_put).collect(),
            Self::Counted {
                prefix,
                count,
                value,
            } => (0..*count)
                .map(|number| Put::new(format!("{prefix}{number}"), value.0.clone()))
                .collect(),
        }
    }
}

fn done(result: Result<(), HostError>) -> Result<Value, HostError> {
    result.map(|()| Value::Null)
}

fn shown(entry: Option<&Entry>) -> Value {
    let Some(entry) = entry else {
        return Value::Null;
    };
    let value =
        (entry.value.len() <= SHOWN_BYTES_MAX).then(|| String::from_utf8_lossy(&entry.value));
    json!({
        "value": value,
        "bytes": entry.value.len(),
        "version": entry.version,
        "expires_at": entry.expires_at,
    })
}
