//! The [`plugin!`](crate::plugin) macro and the types in its expansion.

use crate::Context;
use crate::bindings::exports::stepwell::plugin::step::{Call, PluginManifest, StepError, StepSpec};

/// Makes a plugin of steps. Call the macro once in a crate, whose type must be `cdylib`.
///
/// ```
/// # use stepwell_guest::{plugin, Context, Failure, Step};
/// # struct Greet;
/// # impl Step for Greet {
/// #     const NAME: &'static str = "greet";
/// #     const DESCRIPTION: &'static str = "Says hello";
/// #     type Input = String;
/// #     type Output = String;
/// #     fn run(_: &Context, name: String) -> Result<String, Failure> { Ok(name) }
/// # }
/// plugin! {
///     name: "hello",             // without it, the crate's name
///     version: "1.0.0",          // without it, the crate's version
///     description: "Greets",     // without it, the crate's description
///     steps: [Greet],            // 1 to 64
///     metrics: ["greetings"],    // at most 64 names; without it, the plugin may record none
/// }
/// # fn main() {}
/// ```
///
/// Names out of bounds do not compile:
///
/// ```compile_fail
/// # use stepwell_guest::{plugin, Context, Failure, Step};
/// struct Greet;
/// impl Step for Greet {
///     const NAME: &'static str = "Say Hello";
///     # const DESCRIPTION: &'static str = "Says hello";
///     # type Input = String;
///     # type Output = String;
///     # fn run(_: &Context, name: String) -> Result<String, Failure> { Ok(name) }
/// }
/// plugin! { name: "hello", description: "Greets", steps: [Greet] }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! plugin {
    (
        $(name: $name:expr,)?
        $(version: $version:expr,)?
        $(description: $description:expr,)?
        steps: [$($step:ty),+ $(,)?]
        $(, metrics: [$($metric:expr),* $(,)?])?
        $(,)?
    ) => {
        const _: () = {
            use $crate::__private as private;

            const PLUGIN: private::Plugin = private::Plugin {
                name: private::first(&[$($name,)? ::core::env!("CARGO_PKG_NAME")]),
                version: private::first(&[$($version,)? ::core::env!("CARGO_PKG_VERSION")]),
                description: private::first(&[$($description,)? ::core::env!("CARGO_PKG_DESCRIPTION")]),
                steps: &[$((<$step as $crate::Step>::NAME, <$step as $crate::Step>::DESCRIPTION)),+],
                metrics: &[$($($metric),*)?],
            };
            // The compiler finds mistakes that the host would refuse at the upload.
            const _: () = PLUGIN.check();

            struct Component;

            impl private::Guest for Component {
                fn describe() -> private::PluginManifest {
                    PLUGIN.describe()
                }

                fn run(call: private::Call) -> ::core::result::Result<::std::string::String, private::StepError> {
                    PLUGIN.run(call, |step| match step {
                        $(<$step as $crate::Step>::NAME => ::core::option::Option::Some(<$step as $crate::Step>::call),)+
                        _ => ::core::option::Option::None,
                    })
                }
            }

            // A native build has no host to export to, and native linkers refuse the names of the
            // exports.
            #[cfg(target_arch = "wasm32")]
            $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

/// The description of a plugin, as constants.
#[derive(Debug)]
pub struct Plugin {
    /// The plugin's name, as in the manifest.
    pub name: &'static str,
    /// The plugin's version, a semantic version.
    pub version: &'static str,
    /// The plugin's description, one sentence.
    pub description: &'static str,
    /// Names and descriptions of the steps.
    pub steps: &'static [(&'static str, &'static str)],
    /// Names of the declared metrics.
    pub metrics: &'static [&'static str],
}

/// A function that runs a step, from the input as JSON to the output as JSON.
pub type Run = fn(&Context, &str) -> Result<String, crate::Failure>;

impl Plugin {
    /// Panics, with the reason, if the host would refuse the plugin. Runs at compile time.
    #[expect(
        clippy::indexing_slicing,
        reason = "iterators do not run in constants yet, and the compiler runs this"
    )]
    pub const fn check(&self) {
        assert!(
            is_name(self.name),
            "the plugin's name is not 1 to 63 of a-z, 0-9, '-' starting with a letter"
        );
        assert!(
            self.version.len() <= 64,
            "the plugin's version is longer than 64 bytes"
        );
        assert!(
            !self.description.is_empty(),
            "the plugin has no description, neither here nor in Cargo.toml"
        );
        assert!(
            self.description.len() <= 1024,
            "the plugin's description is longer than 1,024 bytes"
        );
        assert!(self.steps.len() <= 64, "a plugin has at most 64 steps");
        assert!(self.metrics.len() <= 64, "a plugin has at most 64 metrics");
        let mut index = 0;
        while index < self.steps.len() {
            let (name, description) = self.steps[index];
            assert!(
                is_name(name),
                "a step's name is not 1 to 63 of a-z, 0-9, '-' starting with a letter"
            );
            assert!(
                description.len() <= 1024,
                "a step's description is longer than 1,024 bytes"
            );
            let mut other = 0;
            while other < index {
                assert!(
                    !is_same(name, self.steps[other].0),
                    "two steps have the same name"
                );
                other += 1;
            }
            index += 1;
        }
    }

    /// Implements the contract's `describe`.
    pub fn describe(&self) -> PluginManifest {
        crate::panics::report_to_log();
        PluginManifest {
            name: self.name.into(),
            version: self.version.into(),
            description: self.description.into(),
            steps: self
                .steps
                .iter()
                .map(|&(name, description)| StepSpec {
                    name: name.into(),
                    description: description.into(),
                })
                .collect(),
            metrics: self.metrics.iter().map(|&name| name.into()).collect(),
        }
    }

    /// Implements the contract's `run`. `find` returns the step with a name.
    pub fn run(
        &self,
        call: Call,
        find: impl FnOnce(&str) -> Option<Run>,
    ) -> Result<String, StepError> {
        crate::panics::report_to_log();
        let Some(run) = find(&call.context.step) else {
            let known: Vec<_> = self.steps.iter().map(|&(name, _)| name).collect();
            return Err(crate::step::unknown_step(&call.context, &known));
        };
        run(&call.context, &call.input).map_err(StepError::from)
    }
}

/// Returns the first candidate: the author's value if there is one, otherwise the crate's.
pub const fn first(candidates: &[&'static str]) -> &'static str {
    match candidates {
        [first, ..] => first,
        [] => "",
    }
}

#[expect(clippy::indexing_slicing, reason = "as in `check`")]
const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !matches!(bytes[index], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        index += 1;
    }
    !bytes.is_empty() && bytes.len() <= 63 && bytes[0].is_ascii_lowercase()
}

#[expect(clippy::indexing_slicing, reason = "as in `check`")]
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        assert!(is_name("a") && is_name("fan-out-2") && is_name(&"x".repeat(63)));
        for wrong in ["", "2a", "-a", "Hello", "a_b", "ä", &"x".repeat(64)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn names_are_the_same_only_when_all_of_them_is() {
        assert!(is_same("pay", "pay"));
        assert!(!is_same("pay", "pays") && !is_same("pays", "pay") && !is_same("pay", "par"));
    }

    #[test]
    fn the_authors_word_wins_over_the_crates() {
        assert_eq!(first(&["mine", "crate"]), "mine");
        assert_eq!(first(&["crate"]), "crate");
    }
}
