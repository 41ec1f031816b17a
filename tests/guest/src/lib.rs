//! The one guest of the host's tests. Its steps do what they are told to, good and bad; README.md has their inputs.
//!
//! `script` runs any host call with any arguments and answers what came back. The other steps misbehave in a way that a
//! list of host calls cannot: they never end, trap, take all memory, or answer what is no answer.

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
        misbehave::SleepSpin,
        misbehave::Spin,
    ],
    metrics: ["counter", "gauge", "histogram", "timer"],
}
