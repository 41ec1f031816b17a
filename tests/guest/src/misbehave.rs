//! Steps that the host must stop: `hog`, `panic`, `recurse`, `recurse-with-locals`, `sleep-spin`,
//! `spin` and `std-time`.

use std::hint::black_box;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use stepwell_guest::{Context, Failure, Step, runtime};

const MIB: usize = 1024 * 1024;

pub(crate) struct Spin;

impl Step for Spin {
    const NAME: &'static str = "spin";
    const DESCRIPTION: &'static str = "Never ends and calls nothing";
    type Input = IgnoredAny;
    type Output = ();

    fn run(_context: &Context, _input: IgnoredAny) -> Result<(), Failure> {
        spin()
    }
}

pub(crate) fn spin() -> ! {
    loop {
        black_box(());
    }
}

#[derive(Deserialize)]
pub(crate) struct Wait {
    ms: u64,
}

pub(crate) struct SleepSpin;

impl Step for SleepSpin {
    const NAME: &'static str = "sleep-spin";
    const DESCRIPTION: &'static str =
        "Asks for the time until so many milliseconds have passed, and answers how often";
    type Input = Wait;
    type Output = u64;

    fn run(_context: &Context, wait: Wait) -> Result<u64, Failure> {
        let until = runtime::now().saturating_add(wait.ms.saturating_mul(1_000));
        let mut times = 1;
        while runtime::now() < until {
            times += 1;
        }
        Ok(times)
    }
}

pub(crate) struct Panic;

#[derive(Deserialize)]
pub(crate) struct Words {
    #[serde(default)]
    message: String,
}

impl Step for Panic {
    const NAME: &'static str = "panic";
    const DESCRIPTION: &'static str = "Panics with the given message";
    type Input = Words;
    type Output = ();

    fn run(_context: &Context, words: Words) -> Result<(), Failure> {
        panic!("{}", words.message)
    }
}

pub(crate) struct Recurse;

impl Step for Recurse {
    const NAME: &'static str = "recurse";
    const DESCRIPTION: &'static str = "Calls itself until the stack ends";
    type Input = IgnoredAny;
    type Output = u64;

    fn run(_context: &Context, _input: IgnoredAny) -> Result<u64, Failure> {
        Ok(recurse(0))
    }
}

/// Calls itself until the stack ends. The work after the call uses values that the compiler cannot
/// see through, so the recursion does not become a loop.
fn recurse(depth: u64) -> u64 {
    if black_box(depth) == u64::MAX {
        return 0;
    }
    black_box(recurse(black_box(depth + 1))).wrapping_add(1)
}

pub(crate) struct RecurseWithLocals;

impl Step for RecurseWithLocals {
    const NAME: &'static str = "recurse-with-locals";
    const DESCRIPTION: &'static str = "Calls itself until the stack of its local variables ends";
    type Input = IgnoredAny;
    type Output = u64;

    fn run(_context: &Context, _input: IgnoredAny) -> Result<u64, Failure> {
        Ok(recurse_with_locals(0))
    }
}

/// Recurses as [`recurse`] does, with 16 KiB of local variables in memory for each call.
fn recurse_with_locals(depth: u64) -> u64 {
    let locals = black_box([depth; 2_048]);
    if locals[0] == u64::MAX {
        return 0;
    }
    black_box(recurse_with_locals(black_box(depth + 1))).wrapping_add(black_box(locals)[1])
}

pub(crate) struct StdTime;

impl Step for StdTime {
    const NAME: &'static str = "std-time";
    const DESCRIPTION: &'static str = "Asks Rust's standard library for the time";
    type Input = IgnoredAny;
    type Output = u64;

    fn run(_context: &Context, _input: IgnoredAny) -> Result<u64, Failure> {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH);
        Ok(since.map(|since| since.as_secs()).unwrap_or_default())
    }
}

#[derive(Deserialize)]
pub(crate) struct Appetite {
    /// Stops here even if more memory is available.
    mib_max: Option<usize>,
}

#[derive(Serialize)]
pub(crate) struct Eaten {
    mib: usize,
    refused: bool,
}

pub(crate) struct Hog;

impl Step for Hog {
    const NAME: &'static str = "hog";
    const DESCRIPTION: &'static str =
        "Takes and fills memory, MiB by MiB, until it is refused, and answers how much";
    type Input = Appetite;
    type Output = Eaten;

    fn run(_context: &Context, appetite: Appetite) -> Result<Eaten, Failure> {
        // The vector's own memory is allocated first: only the pieces may fail.
        let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(4_096);
        let mut refused = false;
        while !refused && pieces.len() < appetite.mib_max.unwrap_or(4_096).min(4_096) {
            let mut piece = Vec::new();
            refused = piece.try_reserve_exact(MIB).is_err();
            if !refused {
                piece.resize(MIB, 1);
                pieces.push(black_box(piece));
            }
        }
        Ok(Eaten {
            mib: pieces.len(),
            refused,
        })
    }
}
