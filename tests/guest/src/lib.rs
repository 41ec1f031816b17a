//! The guest of the host's tests. README.md lists its steps and their inputs.
//!
//! `script` runs any host call with any arguments and returns the results. The other steps
//! misbehave in ways that a list of host calls cannot: they never end, trap, take all memory, or
//! return an invalid output.

mod answers;
mod attempts;
mod count_up;
mod misbehave;
mod operation;
mod script;
mod storage;
mod text;

stepwell_guest::plugin! {
    steps: [
        script::Script,
        attempts::Echo,
        attempts::Fatal,
        attempts::RetryUntil,
        count_up::CountUp,
        answers::HugeOutput,
        answers::InvalidJson,
        misbehave::Hog,
        misbehave::Panic,
        misbehave::Recurse,
        misbehave::RecurseWithLocals,
        misbehave::SleepSpin,
        misbehave::Spin,
        misbehave::StdTime,
    ],
    metrics: ["counter", "gauge", "histogram", "timer"],
}
