//! Lines in the host's log, with team, plugin, instance and attempt. Needs no grant.
//!
//! At most 256 lines and 64 KiB per attempt, 4 KiB a line and 16 fields; what is over is dropped
//! and counted. There is no standard output in the sandbox: `println!` goes nowhere.
//!
//! ```no_run
//! # let (amount, employee) = (4_200, "ada");
//! use stepwell_guest::log;
//!
//! log::info!("paid {amount} cents");
//! log::warn!("near the limit"; employee = employee, amount = amount);
//! ```

use crate::bindings::stepwell::plugin::log;

pub use crate::{debug, error, info, trace, warn};
/// The severity of a line.
pub use log::Level;

/// Writes a line with fields. The macros are shorter; use this function for fields known only at
/// run time.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    let fields: Vec<_> = fields
        .iter()
        .map(|&(name, value)| log::Field {
            name: name.into(),
            value: value.into(),
        })
        .collect();
    log::write(level, message, &fields);
}

/// Logs a detail for the plugin's author: `trace!("format {}", arguments; field = value, ...)`.
#[macro_export]
macro_rules! trace {
    ($($line:tt)+) => { $crate::__log!(Trace, $($line)+) };
}

/// Logs a fact that helps to find a mistake: `debug!("format {}", arguments; field = value, ...)`.
#[macro_export]
macro_rules! debug {
    ($($line:tt)+) => { $crate::__log!(Debug, $($line)+) };
}

/// Logs a fact for operators: `info!("format {}", arguments; field = value, ...)`.
#[macro_export]
macro_rules! info {
    ($($line:tt)+) => { $crate::__log!(Info, $($line)+) };
}

/// Logs a problem that the step coped with: `warn!("format {}", arguments; field = value, ...)`.
#[macro_export]
macro_rules! warn {
    ($($line:tt)+) => { $crate::__log!(Warn, $($line)+) };
}

/// Logs a problem that an operator must look at: `error!("format {}", arguments; field = value,
/// ...)`.
#[macro_export]
macro_rules! error {
    ($($line:tt)+) => { $crate::__log!(Error, $($line)+) };
}

/// Field values are written with `Display`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $format:literal $(, $argument:expr)* $(,)? $(; $($field:ident = $value:expr),+ $(,)?)?) => {
        $crate::log::write(
            $crate::log::Level::$level,
            &::std::format!($format $(, $argument)*),
            &[$($((::core::stringify!($field), ::std::format!("{}", $value).as_str())),+)?],
        )
    };
}
