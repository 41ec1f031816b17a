//! The check that the functions of a plugin have the types of the contract. The generated bindings
//! check that too, but do not name the wrong function.

use wasmtime::component::Instance;
use wasmtime::{AsContextMut, StoreContextMut};

use super::bindings::exports::stepwell::plugin::step::{Call, PluginManifest, StepError};
use super::{AttemptState, REQUIRED_EXPORT};
use crate::model::failure::{self, Blame, Failure};

const DESCRIBE: &str = "describe: func() -> plugin-manifest";
const RUN: &str = "run: func(call: call) -> result<json, step-error>";

/// Checks both functions of the exported interface.
///
/// # Errors
/// A failure that names each function of another type, its type in the contract, and the first
/// difference.
pub(super) fn check_types(
    mut store: impl AsContextMut<Data = AttemptState>,
    instance: &Instance,
) -> Result<(), Failure> {
    let mut store = store.as_context_mut();
    let describe = function(&mut store, instance, "describe")?;
    let run = function(&mut store, instance, "run")?;
    let describe = describe.typed::<(), (PluginManifest,)>(&store).map(drop);
    let run = run
        .typed::<(&Call,), (Result<String, StepError>,)>(&store)
        .map(drop);
    let problems: Vec<String> = [("describe", DESCRIBE, describe), ("run", RUN, run)]
        .into_iter()
        .filter_map(|(name, contract, typed)| Some(difference(name, contract, &typed.err()?)))
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(broken(&problems.join("; ")))
    }
}

fn function(
    store: &mut StoreContextMut<'_, AttemptState>,
    instance: &Instance,
    name: &str,
) -> Result<wasmtime::component::Func, Failure> {
    let interface = instance.get_export_index(&mut *store, None, REQUIRED_EXPORT);
    interface
        .and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), name))
        .and_then(|function| instance.get_func(&mut *store, function))
        .ok_or_else(|| broken(&format!("its `{name}` is no function")))
}

fn difference(name: &str, contract: &str, error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    // The only variant among the types of the two functions.
    let cause = cause.replace("expected `variant`", "expected `variant` step-error,");
    format!("the type of its `{name}` is another: {cause}, and the contract says {contract}")
}

fn broken(problem: &str) -> Failure {
    let message = format!("the plugin does not keep to the contract: {problem}");
    Failure::fatal(failure::TRAP, Blame::Guest, message)
}
