//! Durations: exact smallest, largest and mean, and percentiles with a known error.
//!
//! A percentile is the middle of its bucket, so its error is at most 0.8 %. Where half a unit of the
//! scale is more, the error is at most that: half a microsecond for work, half a millisecond for
//! waiting. From the bottom: `geometry` has the buckets, `sum` adds them up, `timings` are recorded
//! durations with their binary format in `encoding`, and `live` records from many threads.

mod encoding;
mod geometry;
mod live;
mod sum;
mod timings;

pub use self::encoding::TimingsError;
pub(super) use self::geometry::Scale;
pub(super) use self::live::LiveTimings;
pub use self::sum::DurationStats;
pub(super) use self::sum::Sum;
pub use self::timings::Timings;
