//! The binary format of durations, for a column of a table.
//!
//! The bytes are a version, the scale, then numbers with 7 bits in each byte: errors, sum,
//! smallest, largest, and for each used bucket the distance from the previous bucket and the count.
//! An interval of one operation takes about 100 bytes.

use histogram::SparseHistogram;

use super::geometry::{Scale, config};
use super::timings::Timings;

const VERSION: u8 = 1;
/// The maximum number of durations that the bytes may claim. 65,000 such histograms can be merged
/// without an overflow.
const COUNT_MAX: u128 = 1 << 48;

/// The reason why bytes are not [`Timings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingsError {
    /// The bytes have another version of the format.
    #[error("the histogram has format {0}, which this program does not know")]
    Version(u8),
    /// The bytes end early, are too long or contradict themselves.
    #[error("the histogram is damaged")]
    Damaged,
}

impl Timings {
    /// Encodes the durations: at most 1,920 buckets of 12 bytes each, and usually a hundred bytes
    /// in all.
    pub fn to_bytes(&self) -> Vec<u8> {
        let scale = match self.scale {
            Scale::Work => 0,
            Scale::Waiting => 1,
        };
        let mut bytes = vec![VERSION, scale];
        let numbers = [
            u128::from(self.errors),
            self.sum,
            u128::from(self.min),
            u128::from(self.max),
        ];
        numbers
            .into_iter()
            .for_each(|number| write(&mut bytes, number));
        write(&mut bytes, self.buckets.len() as u128);
        let mut next = 0;
        for (index, count) in self.buckets.index().iter().zip(self.buckets.count()) {
            write(&mut bytes, u128::from(index - next));
            write(&mut bytes, u128::from(*count));
            next = index + 1;
        }
        bytes
    }

    /// Decodes durations from untrusted bytes.
    ///
    /// # Errors
    /// Fails if [`Timings::to_bytes`] cannot have written the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TimingsError> {
        let (version, rest) = bytes.split_first().ok_or(TimingsError::Damaged)?;
        if *version != VERSION {
            return Err(TimingsError::Version(*version));
        }
        read_body(rest).ok_or(TimingsError::Damaged)
    }
}

fn read_body(bytes: &[u8]) -> Option<Timings> {
    let (scale, mut rest) = bytes.split_first()?;
    let scale = match scale {
        0 => Scale::Work,
        1 => Scale::Waiting,
        _ => return None,
    };
    let rest = &mut rest;
    let errors = u64::try_from(read(rest)?).ok()?;
    let sum = read(rest)?;
    let (min, max) = (
        u64::try_from(read(rest)?).ok()?,
        u64::try_from(read(rest)?).ok()?,
    );
    let used = usize::try_from(read(rest)?)
        .ok()
        .filter(|used| *used <= config().total_buckets())?;
    let (mut index, mut counts) = (Vec::with_capacity(used), Vec::with_capacity(used));
    let (mut next, mut all) = (0_u32, 0_u128);
    for _ in 0..used {
        let bucket = next.checked_add(u32::try_from(read(rest)?).ok()?)?;
        let count = read(rest)?;
        all = all.checked_add(count)?;
        index.push(bucket);
        counts.push(u64::try_from(count).ok().filter(|count| *count > 0)?);
        next = bucket.checked_add(1)?;
    }
    let whole = rest.is_empty() && all <= COUNT_MAX && (used == 0 || min <= max);
    // `from_parts` refuses buckets that do not exist.
    let buckets = SparseHistogram::from_parts(config(), index, counts).ok()?;
    whole.then_some(Timings {
        scale,
        buckets,
        errors,
        sum,
        min,
        max,
    })
}

fn write(bytes: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0_u128;
    for shift in (0..126).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
