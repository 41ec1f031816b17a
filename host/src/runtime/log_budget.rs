//! The log usage of an attempt.

/// Lines and bytes that an attempt has logged.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    pub(super) lines: u32,
    pub(super) bytes: usize,
    /// Number of lines dropped because of the limits.
    pub(super) dropped: u32,
    /// The last error line. A panic hook writes one, which is more useful than "unreachable".
    pub(super) last_error: Option<String>,
}
