//! Converts errors of wasmtime into a [`Failure`].

use wasmtime::Trap;

use crate::model::failure::{self, Blame, Failure};

/// A limit that the host counts itself was exceeded. Host functions raise this as a trap.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct GuestFault {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// Further facts about an attempt that ended with an error of wasmtime's.
pub(super) struct Evidence<'a> {
    /// The guest was refused memory or table elements at some time.
    pub(super) memory_refused: bool,
    pub(super) memory_bytes_max: usize,
    /// The last line that the guest logged as an error; a panic hook writes one.
    pub(super) last_error: Option<&'a str>,
}

/// Converts an error of wasmtime's. All such errors are the guest's fault, except an empty pool.
pub(super) fn classify(error: &wasmtime::Error, evidence: &Evidence<'_>) -> Failure {
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
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            return Failure::fatal(
                failure::STACK_OVERFLOW,
                Blame::Guest,
                "the plugin called itself too deeply",
            );
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
    // Other errors concern an argument or a type that the canonical ABI does not allow.
    let what = if error.is::<Trap>() {
        "trapped"
    } else {
        "does not keep to the contract"
    };
    let message = match evidence.last_error {
        Some(line) => format!("the plugin {what}: {cause}; its last error line: {line}"),
        None => format!("the plugin {what}: {cause}"),
    };
    Failure::retryable(failure::TRAP, Blame::Guest, message)
}
