//! Converts errors of wasmtime into a [`Failure`].

use std::collections::BTreeSet;

use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use crate::model::failure::{self, Blame, Failure};

/// A limit that the host counts itself was exceeded. Host functions raise this as a trap.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct GuestFault {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// The guest ended itself with this status.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub(super) struct GuestExit(pub(super) u8);

/// Further facts about an attempt that ended with an error of wasmtime's.
pub(super) struct FaultContext {
    /// The guest was refused memory or table elements at some time.
    pub(super) memory_refused: bool,
    pub(super) memory_bytes_max: usize,
    /// The last line that the guest logged as an error; a panic hook writes one.
    pub(super) last_error: Option<String>,
    /// The last lines that the guest wrote to stderr.
    pub(super) stderr: Option<String>,
}

/// Converts an error of wasmtime's. All such errors are the guest's fault, except an empty pool.
pub(super) fn classify(error: &wasmtime::Error, evidence: &FaultContext) -> Failure {
    if let Some(fault) = error.downcast_ref::<GuestFault>() {
        return Failure::fatal(fault.code, Blame::Guest, fault.message.clone());
    }
    if error
        .downcast_ref::<wasmtime::PoolConcurrencyLimitError>()
        .is_some()
    {
        return Failure::retryable(
            failure::HOST,
            Blame::Host,
            "all slots for running steps are taken",
        );
    }
    if error
        .downcast_ref::<wasmtime::component::ResourceTableError>()
        .is_some()
    {
        return Failure::fatal(
            failure::HOST_CALL_LIMIT,
            Blame::Guest,
            "the plugin holds too many open handles",
        );
    }
    if let Some(GuestExit(status)) = error.downcast_ref::<GuestExit>() {
        let message = format!(
            "the plugin ended itself with the exit status {status}, and returned no output"
        );
        return Failure::retryable(failure::EXITED, Blame::Guest, evidence.with_text(message));
    }
    let trap = error.downcast_ref::<Trap>();
    match trap {
        Some(Trap::StackOverflow) => return stack_overflow(),
        // Compilers keep variables whose address is taken in a separate stack at the bottom of
        // memory. An overflow of this stack goes below address zero.
        Some(Trap::MemoryOutOfBounds) if is_below_zero(error) || is_recursion(error) => {
            return stack_overflow();
        }
        Some(Trap::Interrupt) => {
            return Failure::fatal(
                failure::CPU_LIMIT,
                Blame::Guest,
                "the plugin used up its CPU budget",
            );
        }
        _ => {}
    }
    if evidence.memory_refused {
        let message = format!(
            "the plugin asked for more memory or table elements than it may have ({} bytes of memory)",
            evidence.memory_bytes_max
        );
        return Failure::fatal(failure::MEMORY_LIMIT, Blame::Guest, message);
    }
    let cause = error.root_cause().to_string();
    // wasmtime has no public types for these two; a test for each detects changed messages.
    if cause.contains("fuel") || cause.contains("handle limit exceeded") {
        let message = format!(
            "the plugin passed too much through host calls, or holds too many handles: {cause}"
        );
        return Failure::fatal(failure::HOST_CALL_LIMIT, Blame::Guest, message);
    }
    let message = match (trap, evidence.last_error.as_deref()) {
        (Some(_), Some(line)) if line.starts_with(PANIC) => panicked(line),
        (Some(Trap::UnreachableCodeReached), None) if evidence.stderr.is_none() => {
            format!(
                "the plugin trapped: {}{SILENT}",
                words(Trap::UnreachableCodeReached)
            )
        }
        (Some(trap), _) => evidence.with_text(format!("the plugin trapped: {}", words(*trap))),
        // Other errors concern an argument or a type that the canonical ABI does not allow.
        (None, _) => {
            evidence.with_text(format!("the plugin does not keep to the contract: {cause}"))
        }
    };
    Failure::retryable(failure::TRAP, Blame::Guest, message)
}

/// The end of the message about a guest that stopped itself and logged no error.
pub const SILENT: &str = "; it wrote nothing to stderr, and logged no error that would say more";
/// Most bytes of a logged error that is shown beside stderr.
const LOGGED_BYTES_MAX: usize = 512;
/// The prefix of the line that the SDK's panic hook logs.
pub(super) const PANIC: &str = "panicked: ";
/// Addresses that count as an overflow of the stack below zero, where addresses wrap around.
const BELOW_ZERO: std::ops::Range<u64> = 0xffe0_0000..0x1_0020_0000;
/// Minimum number of frames of a recursion; wasmtime reports at most 20.
const FRAMES_OF_RECURSION: usize = 20;
/// Maximum number of functions in a recursion: some that call one another, and one that does the
/// work.
const FUNCTIONS_OF_RECURSION: usize = 5;
/// wasmtime's text before the address of an access out of bounds.
const FAULT_ADDRESS: &str = "memory fault at wasm address 0x";

fn stack_overflow() -> Failure {
    Failure::fatal(
        failure::STACK_OVERFLOW,
        Blame::Guest,
        "the plugin used up its stack: it called itself too deeply, or keeps too much in local variables",
    )
}

fn is_below_zero(error: &wasmtime::Error) -> bool {
    let text = format!("{error:#}");
    text.split_once(FAULT_ADDRESS)
        .and_then(|(_, rest)| {
            let digits = rest.split(|character: char| !character.is_ascii_hexdigit());
            u64::from_str_radix(digits.into_iter().next()?, 16).ok()
        })
        .is_some_and(|address| BELOW_ZERO.contains(&address))
}

/// Returns true if the innermost frames, as many as wasmtime reports, belong to very few functions.
/// Operations on whole ranges of memory trap without an address.
fn is_recursion(error: &wasmtime::Error) -> bool {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return false;
    };
    let functions: BTreeSet<u32> = trace.frames().iter().map(FrameInfo::func_index).collect();
    trace.frames().len() >= FRAMES_OF_RECURSION && functions.len() <= FUNCTIONS_OF_RECURSION
}

impl FaultContext {
    /// Appends the texts that the guest left behind. stderr comes last, because it can have several
    /// lines.
    fn with_text(&self, mut message: String) -> String {
        if let Some(line) = &self.last_error {
            let bytes_max = self
                .stderr
                .as_ref()
                .map_or(line.len(), |_| LOGGED_BYTES_MAX);
            let shown = line.get(..line.floor_char_boundary(bytes_max));
            message.push_str("; the last error that it logged: ");
            message.push_str(shown.unwrap_or(line));
        }
        if let Some(text) = &self.stderr {
            message.push_str("; its stderr ends with: ");
            message.push_str(text);
        }
        message
    }
}

/// Formats a panic as one sentence, from the line that the SDK logs: `panicked: MESSAGE
/// location=FILE:LINE:COLUMN`.
fn panicked(line: &str) -> String {
    let line = line.strip_prefix(PANIC).unwrap_or(line);
    let (message, place) = match line.rsplit_once(" location=") {
        Some((message, place)) if !place.is_empty() => (message, format!(" at {place}")),
        _ => (line, String::new()),
    };
    format!("the plugin panicked{place}: {message}{}", advice(message))
}

/// Returns the SDK's replacement for a part of Rust's standard library that needs an operating
/// system.
fn advice(message: &str) -> &'static str {
    if message.contains("time not implemented on this platform") {
        "; std::time has no clock in a plugin: use `Context::now`, or `runtime::now` of stepwell-guest"
    } else if message.contains("not supported on this platform") {
        "; a plugin has no threads, files, network or environment: use `storage`, `log` and `runtime` of stepwell-guest, \
         or the step's input"
    } else {
        ""
    }
}

/// Returns a trap in plain words.
fn words(trap: Trap) -> String {
    match trap {
        Trap::UnreachableCodeReached => {
            "it stopped itself (`unreachable`: a panic, an abort, or an exception that nothing catches)".to_owned()
        }
        Trap::MemoryOutOfBounds => "it used an address outside of its memory".to_owned(),
        Trap::IntegerDivisionByZero => "it divided a whole number by zero".to_owned(),
        Trap::IntegerOverflow => "a division of whole numbers overflowed".to_owned(),
        Trap::BadConversionToInteger => {
            "it made a whole number of one that is not a number, or too large".to_owned()
        }
        Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature => {
            "it called a function that is not there, or of another type".to_owned()
        }
        other => other
            .to_string()
            .trim_start_matches("wasm trap: ")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(error: &wasmtime::Error, last_error: Option<&str>) -> Failure {
        let evidence = FaultContext {
            memory_refused: false,
            memory_bytes_max: 1,
            last_error: last_error.map(str::to_owned),
            stderr: None,
        };
        classify(error, &evidence)
    }

    fn trapped(last_error: Option<&str>) -> String {
        classified(&Trap::UnreachableCodeReached.into(), last_error).message
    }

    #[test]
    fn a_panic_is_one_sentence_with_its_place() {
        assert_eq!(
            trapped(Some("panicked: no paper location=src/lib.rs:5:9")),
            "the plugin panicked at src/lib.rs:5:9: no paper"
        );
        let silent = trapped(None);
        assert!(
            silent.starts_with("the plugin trapped: ") && silent.contains("`unreachable`"),
            "{silent}"
        );
        let other = trapped(Some("TypeError: x is undefined"));
        assert!(other.ends_with("TypeError: x is undefined"), "{other}");
    }

    #[test]
    fn the_end_of_stderr_is_shown_of_a_trap_and_of_an_exit() {
        let evidence = FaultContext {
            memory_refused: false,
            memory_bytes_max: 1,
            last_error: Some("x".repeat(4_096)),
            stderr: Some("Traceback:\nValueError: no".to_owned()),
        };
        for (error, code) in [
            (Trap::UnreachableCodeReached.into(), failure::TRAP),
            (GuestExit(3).into(), failure::EXITED),
        ] {
            let failure = classify(&error, &evidence);
            assert_eq!(failure.code, code);
            let end = "; its stderr ends with: Traceback:\nValueError: no";
            assert!(failure.message.ends_with(end), "{}", failure.message);
        }
    }

    #[test]
    fn what_the_standard_library_lacks_is_found_in_the_sdk() {
        for (message, words) in [
            ("time not implemented on this platform", "runtime::now"),
            (
                "failed to spawn thread: Error { message: \"operation not supported on this platform\" }",
                "no threads, files",
            ),
        ] {
            let text = trapped(Some(&format!(
                "panicked: {message} location=/rustc/std/time.rs:13:9"
            )));
            assert!(
                text.contains(words) && text.contains("stepwell-guest"),
                "{text}"
            );
        }
    }

    #[test]
    fn addresses_just_below_zero_are_a_stack_overflow() {
        for (address, code) in [
            ("0xfffffff0", failure::STACK_OVERFLOW),
            ("0x100000010", failure::STACK_OVERFLOW),
            ("0x7ffffff8", failure::TRAP),
        ] {
            let error = wasmtime::Error::from(Trap::MemoryOutOfBounds).context(format!(
                "memory fault at wasm address {address} in linear memory of size 0x110000"
            ));
            assert_eq!(classified(&error, None).code, code, "{address}");
        }
    }
}
