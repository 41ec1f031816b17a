//! WASI 0.2 with nothing in it, for components of languages whose runtimes import it.
//!
//! A guest sees no file, no directory, no environment variable, no argument and an empty stdin; each
//! attempt to make a socket or to look up a name is refused. stdout and stderr are lines of the
//! attempt's log ([`output`]). Clocks are the host's, randomness is the operating system's
//! ([`host`]). `wasi:http` is not linked.
//!
//! The crate wasmtime-wasi implements the interfaces, except for randomness and `exit`. The bounds
//! are those of other host functions: calls, bytes of a call, and handles. A handle that is passed
//! to `poll` counts once more, so the number of handles bounds `poll` too.

pub mod context;
mod host;
mod offered;
mod output;

use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::p2::bindings::{cli, random};

pub use self::offered::{PACKAGES, VERSION, is_offered, package};
use super::attempt::AttemptState;

/// Adds the functions of all offered interfaces to the linker.
///
/// # Errors
/// An interface was added before.
pub fn add_to_linker(linker: &mut Linker<AttemptState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    macro_rules! replace {
        ($($interface:ident)::+) => {
            $($interface)::+::add_to_linker::<_, HasSelf<AttemptState>>(linker, |state| state)?
        };
    }
    replace!(cli::exit);
    replace!(random::random);
    replace!(random::insecure);
    replace!(random::insecure_seed);
    linker.allow_shadowing(false);
    Ok(())
}
