//! The step `count-up`: reads a number, adds one, and writes it back unless another step wrote it
//! meanwhile.

use serde::Deserialize;
use stepwell_guest::storage::{Bucket, Put};
use stepwell_guest::{Context, Failure, Step};

#[derive(Deserialize)]
pub(crate) struct Counter {
    key: String,
}

pub(crate) struct CountUp;

impl Step for CountUp {
    const NAME: &'static str = "count-up";
    const DESCRIPTION: &'static str =
        "Adds one to a number of the plugin's, guarded by its version";
    type Input = Counter;
    type Output = u64;

    fn run(_context: &Context, input: Counter) -> Result<u64, Failure> {
        let bucket = Bucket::open_plugin()?;
        let (number, version) = match bucket.get(&input.key)? {
            None => (0, 0),
            Some(entry) => (entry.json::<u64>()?, entry.version),
        };
        let next = number + 1;
        bucket.put(&Put::json(&input.key, &next)?.if_version(version))?;
        Ok(next)
    }
}
