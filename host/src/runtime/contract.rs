//! The names and versions of the contract, and the check that the functions of a plugin have its
//! types. The generated bindings check the types too, but do not name the wrong function.
//!
//! Versions match by semver, as in wasmtime's linker: a component built for 0.1.1 runs on every
//! host that offers 0.1, and a newer minor version than offered is refused.

use semver::{Comparator, Op, Prerelease, Version};
use wasmtime::component::Instance;
use wasmtime::{AsContextMut, StoreContextMut};

use super::bindings::exports::stepwell::plugin::step::{Call, PluginManifest, StepError};
use super::{AttemptState, wasi};
use crate::model::failure::{self, Blame, Failure};
use crate::model::plugin::{CONTRACT, Interface};

const DESCRIBE: &str = "describe: func() -> plugin-manifest";
const RUN: &str = "run: func(call: call) -> result<json, step-error>";

/// The exported interface. Components may import it too, for its types.
const STEP: &str = "step";

/// Returns the contract as `package@version`.
pub fn contract() -> String {
    format!("{}@{}", CONTRACT.0, CONTRACT.1)
}

/// Returns the name of the interface that a component must export.
pub fn step_export() -> String {
    format!("{}/{STEP}@{}", CONTRACT.0, CONTRACT.1)
}

/// Returns whether a component may import `import`, written as `package/interface@version`.
pub fn is_offered(import: &str) -> bool {
    let mut interfaces = Interface::ALL.into_iter();
    is_step(import)
        || interfaces.any(|it| matches(import, it.as_str(), it.version()))
        || wasi::is_offered(import)
}

/// Returns whether `export` is the interface that a component must export.
pub fn is_step(export: &str) -> bool {
    matches(export, STEP, CONTRACT.1)
}

/// Returns whether an item of a component is the interface `name`, in a version that a host with
/// the version `offered` serves.
fn matches(item: &str, name: &str, offered: &str) -> bool {
    let asked = (item.strip_prefix(CONTRACT.0))
        .and_then(|item| {
            item.strip_prefix('/')?
                .strip_prefix(name)?
                .strip_prefix('@')
        })
        .and_then(|version| Version::parse(version).ok());
    let (Some(asked), Ok(offered)) = (asked, Version::parse(offered)) else {
        return false;
    };
    let at_least = Comparator {
        op: Op::Caret,
        major: asked.major,
        minor: Some(asked.minor),
        patch: None,
        pre: Prerelease::EMPTY,
    };
    asked.pre.is_empty() && at_least.matches(&offered)
}

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
    let interface = instance.get_export_index(&mut *store, None, &step_export());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_of_the_offered_version_is_offered_and_no_other_version() {
        for version in ["0.1.0", "0.1.1", "0.1.73", "0.1.1+build"] {
            assert!(
                is_offered(&format!("stepwell:plugin/log@{version}")),
                "{version}"
            );
            assert!(
                is_step(&format!("stepwell:plugin/step@{version}")),
                "{version}"
            );
        }
        for version in ["0.2.0", "0.0.9", "1.0.0", "0.1.1-rc.1", "0.1", ""] {
            assert!(
                !is_offered(&format!("stepwell:plugin/log@{version}")),
                "{version}"
            );
            assert!(
                !is_step(&format!("stepwell:plugin/step@{version}")),
                "{version}"
            );
        }
        assert!(!is_offered("stepwell:plugin/secrets@0.1.0"));
        assert!(!is_offered("stepwell:plugins/log@0.1.0"));
        // The host offers 1.2.
        for (asked, served) in [
            ("1.2.5", true),
            ("1.1.0", true),
            ("1.3.0", false),
            ("2.0.0", false),
        ] {
            let item = format!("stepwell:plugin/log@{asked}");
            assert_eq!(matches(&item, "log", "1.2.0"), served, "{asked}");
        }
    }

    #[test]
    fn the_list_of_interfaces_is_that_of_the_contract() {
        let world = include_str!("../../../wit/world.wit");
        let imports: Vec<_> = (world.lines())
            .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'))
            .collect();
        let listed = Interface::ALL.map(Interface::as_str);
        // Every interface uses `types`, so the world need not import it.
        assert_eq!([&["types"], imports.as_slice()].concat(), listed);
        assert!(world.starts_with(&format!("package {};", contract())));
    }
}
