//! Scans an upload: is it a component, which interfaces does it import and export, and is it small
//! enough to compile? The scan reads section by section and executes nothing; the compiler
//! validates the rest.
//!
//! The bounds are the host's own, not the compiler's. They keep a hostile file from costing minutes
//! of compile time. Components from Rust, C, Go, JavaScript and Python stay far below them.

use wasmparser::{
    CanonicalFunction, CanonicalOption, Encoding, ImportSectionReader, Parser, Payload, TypeRef,
};

use super::UploadError;
use crate::model::plugin::{CONTRACT, Interface};
use crate::runtime::{
    WASI_PACKAGES, WASI_VERSION, contract, is_offered, is_step, step_export, wasi_package,
};

const FUNCTION_BODY_BYTES_MAX: usize = 1 << 20;
const NESTING_MAX: u32 = 8;
/// Most interfaces that the component itself imports.
const INTERFACES_MAX: u32 = 1_000;
/// Most memories of one core module, imported ones included. The engine has to allow several,
/// because wasmtime's own adapters between composed components use two; uploaded modules need one.
const MODULE_MEMORIES_MAX: u32 = 1;
const LOCALS_MAX: u64 = 50_000;
/// Maximum number of imports that a refusal names.
const IMPORTS_NAMED_MAX: usize = 40;
/// Bytes of an upload that are searched to recognize the kind of text.
const TEXT_LOOKED_AT: usize = 1_024;
/// Bytes of a custom section that are searched for the mark of a tool.
const MARKS_LOOKED_AT: usize = 4_096;

/// The imports and exports of an upload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Imports of the component itself, in order.
    pub(super) imports: Vec<String>,
    /// Exports of the component itself, in order.
    pub(super) exports: Vec<String>,
    /// The tool that made the component.
    pub(super) made_with: Producer,
}

impl Scan {
    /// Returns the imported interfaces that need a grant.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = Interface> {
        Interface::needing_grant().filter(|interface| {
            let name = format!("{}/{}@", CONTRACT.0, interface.as_str());
            self.imports.iter().any(|import| import.starts_with(&name))
        })
    }
}

/// Scans an upload and refuses what no plugin may contain.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, UploadError> {
    check_kind(bytes)?;
    let mut scan = Scan::default();
    let mut counts = ItemCounts::default();
    let mut nesting = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        counts.count(&payload)?;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                nesting += 1;
                if nesting > NESTING_MAX {
                    return Err(too_complex(format!(
                        "components nest deeper than {NESTING_MAX}"
                    )));
                }
            }
            Payload::End(_) => nesting = nesting.saturating_sub(1),
            Payload::CustomSection(section) => {
                scan.made_with.note(section.name(), section.data());
            }
            Payload::ComponentImportSection(imports) if nesting == 0 => {
                for import in imports.clone() {
                    scan.imports
                        .push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if nesting == 0 => {
                for export in exports.clone() {
                    scan.exports
                        .push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    check_imports(&scan)?;
    check_exports(&scan)?;
    Ok(scan)
}

/// Refuses a file of another kind, with a message that names the kind.
fn check_kind(bytes: &[u8]) -> Result<(), UploadError> {
    let what = match bytes {
        [] => "the upload is empty",
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "this is a core WebAssembly module, not a component; turn it into one with `cargo xtask guests` (in the \
             Stepwell repository), or with `wasm-tools component new FILE -o COMPONENT`"
        }
        [0, b'a', b's', b'm', ..] => "this is WebAssembly of a version that is not supported",
        [0x7f, b'E', b'L', b'F', ..] => {
            "this is machine code (an ELF file), maybe a precompiled component; upload the component itself, the host \
             compiles it"
        }
        [b'(', ..] | [b';', b';', ..] => {
            "this looks like WebAssembly text; upload the binary form of the component"
        }
        [b'P', b'K', ..] | [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] => {
            "this is an archive or compressed; upload the component itself"
        }
        _ => text_kind(bytes).unwrap_or(
            "this is not WebAssembly: a component begins with the bytes 00 61 73 6d 0d 00 01 00",
        ),
    };
    Err(refused("not-a-component", what.to_owned()))
}

/// Kind of text that is uploaded in place of a component, most often by mistake.
fn text_kind(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes
        .get(..bytes.len().min(TEXT_LOOKED_AT))
        .unwrap_or(bytes);
    let start = String::from_utf8_lossy(start).to_ascii_lowercase();
    let start = start.trim_start_matches('\u{feff}').trim_start();
    let is_multipart = || start.starts_with("--") && start.contains("content-disposition:");
    if ["<!doctype", "<html", "<head", "<?xml"]
        .iter()
        .any(|tag| start.starts_with(tag))
    {
        Some(
            "this is an HTML or XML page: the download led to a page, maybe one to sign in, and not to the file; \
             download the component itself",
        )
    } else if start.starts_with("version https://git-lfs.github.com/spec/") {
        Some(
            "this is a Git LFS pointer, which stands for the file: run `git lfs pull`, and upload the file itself",
        )
    } else if start.starts_with("agfzbq") {
        Some("this is base64 of WebAssembly: decode it (`base64 -d`), and upload the bytes")
    } else if is_multipart() {
        Some(
            "this is a multipart form: send the component as the body itself, with curl as `--data-binary @FILE` in \
             place of `-F`",
        )
    } else if start.starts_with('{') {
        Some("this is JSON: upload the component itself")
    } else {
        None
    }
}

/// Refuses imports that the host does not offer, and names all of them.
fn check_imports(scan: &Scan) -> Result<(), UploadError> {
    let unknown: Vec<&str> = scan
        .imports
        .iter()
        .map(String::as_str)
        .filter(|import| !is_offered(import))
        .collect();
    let Some(first) = unknown.first() else {
        return Ok(());
    };
    let wasi: Vec<_> = (unknown.iter().copied()).filter_map(wasi_package).collect();
    let advice = match asked_version(first) {
        _ if !wasi.is_empty() => wasi_advice(&wasi, scan.made_with),
        Some(asked) => format!(
            "the component asks for version {} of the contract, and this host offers {}: build the plugin with the \
             stepwell-guest of this release",
            shown(asked),
            CONTRACT.1
        ),
        None => format!(
            "a plugin can import only the interfaces of {} and of WASI {WASI_VERSION}",
            contract()
        ),
    };
    let mut names = unknown
        .iter()
        .take(IMPORTS_NAMED_MAX)
        .map(|import| format!("`{}`", shown(import)))
        .collect::<Vec<_>>()
        .join(", ");
    if unknown.len() > IMPORTS_NAMED_MAX {
        names.push_str(&format!(" and {} more", unknown.len() - IMPORTS_NAMED_MAX));
    }
    let what = match unknown.len() {
        1 => format!("the component imports {names}"),
        count => format!(
            "the component imports {count} interfaces that plugins are not offered: {names}"
        ),
    };
    Err(refused("unknown-import", format!("{what}. {advice}")))
}

/// Refuses a component that does not export the interface of steps, in a version that the host
/// serves.
fn check_exports(scan: &Scan) -> Result<(), UploadError> {
    if scan.exports.iter().any(|export| is_step(export)) {
        return Ok(());
    }
    let mut exports = scan.exports.iter();
    let export = exports
        .clone()
        .find(|export| asked_version(export).is_some());
    Err(refused(
        "missing-export",
        format!(
            "the component does not export `{}`{}; a plugin made with the crate stepwell-guest and its `plugin!` macro \
             does",
            step_export(),
            match export.or_else(|| exports.next()) {
                Some(export) => format!(" (it exports `{}`)", shown(export)),
                None => " (it exports nothing)".to_owned(),
            }
        ),
    ))
}

/// Returns the version of the contract that an import or export names.
fn asked_version(item: &str) -> Option<&str> {
    let (_, version) = item
        .strip_prefix(CONTRACT.0)?
        .strip_prefix('/')?
        .split_once('@')?;
    Some(version)
}

/// The tool that made a component, if the advice for it differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Producer {
    /// ComponentizeJS, by itself or through jco.
    JavaScript,
    /// componentize-py.
    Python,
    /// Any other tool.
    #[default]
    Other,
}

impl Producer {
    /// Recognizes the tool by the mark that it leaves in custom sections. Only the first bytes of a
    /// section are searched.
    fn note(&mut self, name: &str, data: &[u8]) {
        if *self != Self::Other {
            return;
        }
        let data = data.get(..data.len().min(MARKS_LOOKED_AT)).unwrap_or(data);
        let has = |mark: &[u8]| data.windows(mark.len()).any(|window| window == mark);
        if name == "producers" && (has(b"ComponentizeJS") || has(b"JavaScript")) {
            *self = Self::JavaScript;
        } else if name == "producers" && has(b"componentize-py")
            // componentize-py leaves no name in `producers`; its modules name the libraries that
            // they are linked with.
            || name == "dylink.0" && (has(b"libpython") || has(b"libcomponentize_py"))
        {
            *self = Self::Python;
        }
    }

    /// Returns the cause of a silent end, and advice to read its text, if the tool's language has
    /// exceptions. The tools print an uncaught exception to stderr, unless it was left out.
    pub(super) fn on_exceptions(self) -> Option<&'static str> {
        match self {
            Self::JavaScript => Some(
                "in JavaScript, by an exception that nothing catches, or by a returned value without the contract's shape \
                 (a missing field). The text is lost, because the component was built without stderr; to read it here, \
                 take 'stdio' out of the `disableFeatures` of componentize-js",
            ),
            Self::Python => Some(
                "in Python, by an exception that nothing catches, by a returned value without the contract's shape, or by a \
                 use of the operating system (print, time, open, an import inside of a function). The text is lost, because \
                 the component was built without stderr; to read it here, build it without `--stub-wasi` (-s)",
            ),
            Self::Other => None,
        }
    }

    /// Returns the option of the tool that leaves `wasi:http` out.
    fn without_http(self) -> &'static str {
        match self {
            Self::JavaScript => {
                "build with `disableFeatures: ['http', 'fetch-event']` of componentize-js (`jco componentize --disable \
                 http --disable fetch-event`)"
            }
            Self::Python => "take `wasi:http` out of the world that componentize-py is given",
            Self::Other => {
                "take it out of the component's world (JavaScript: `disableFeatures: ['http', 'fetch-event']` of \
                 componentize-js)"
            }
        }
    }
}

/// Returns advice for imports of WASI that the host does not offer; `packages` are theirs.
fn wasi_advice(packages: &[&str], made_with: Producer) -> String {
    if packages.contains(&"http") {
        return format!(
            "plugins cannot send or serve HTTP, so `wasi:http` is not offered: {}",
            made_with.without_http()
        );
    }
    let is_known = |package: &&str| WASI_PACKAGES.contains(package);
    let offered = WASI_PACKAGES.join(", ");
    if packages.iter().all(is_known) {
        format!(
            "this host offers the stable interfaces of WASI {WASI_VERSION} ({offered}): build the component for that version"
        )
    } else {
        format!(
            "of WASI, this host offers {offered} in version {WASI_VERSION}; for stored data and for log lines, use \
             `storage` and `log` of the contract"
        )
    }
}

/// Numbers of items, over all modules and components of an upload.
struct ItemCounts {
    functions: Bounded,
    modules: Bounded,
    types: Bounded,
    segments: Bounded,
    memories: Bounded,
    tables: Bounded,
    instances: Bounded,
    /// Interfaces that the component itself imports.
    interfaces: Bounded,
    /// Imports of core modules and of inner components.
    imports: Bounded,
    exports: Bounded,
    globals: Bounded,
    custom: Bounded,
    /// For each open module or component, from the outside in: the number of memories of a module.
    open: Vec<u32>,
}

/// The number of items of one kind, and its maximum.
struct Bounded {
    kind: &'static str,
    max: u32,
    count: u32,
}

impl Bounded {
    fn add(&mut self, more: u32) -> Result<(), UploadError> {
        self.count = self.count.saturating_add(more);
        if self.count > self.max {
            return Err(too_complex(format!(
                "it has {} or more {}, and may have {}",
                self.count, self.kind, self.max
            )));
        }
        Ok(())
    }
}

impl Default for ItemCounts {
    fn default() -> Self {
        let bounded = |kind, max| Bounded {
            kind,
            max,
            count: 0,
        };
        Self {
            functions: bounded("functions", 200_000),
            modules: bounded("core modules", 64),
            types: bounded("types", 50_000),
            segments: bounded("data and element segments", 100_000),
            memories: bounded("memories", 64),
            tables: bounded("tables", 64),
            instances: bounded("instances", 256),
            interfaces: bounded("imported interfaces", INTERFACES_MAX),
            imports: bounded("imports of core modules and inner components", 10_000),
            exports: bounded("exports", 10_000),
            globals: bounded("global variables", 50_000),
            custom: bounded("custom sections", 1_000),
            open: Vec::new(),
        }
    }
}

impl ItemCounts {
    fn count(&mut self, payload: &Payload<'_>) -> Result<(), UploadError> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.open.push(0);
                if *encoding == Encoding::Module {
                    self.modules.add(1)
                } else {
                    Ok(())
                }
            }
            Payload::End(_) => {
                self.open.pop();
                Ok(())
            }
            Payload::TypeSection(section) => self.types.add(section.count()),
            Payload::CoreTypeSection(section) => self.types.add(section.count()),
            Payload::ComponentTypeSection(section) => self.types.add(section.count()),
            Payload::FunctionSection(section) => self.functions.add(section.count()),
            Payload::ImportSection(section) => self.module_imports(section),
            Payload::ComponentImportSection(section) if self.open.len() > 1 => {
                self.imports.add(section.count())
            }
            Payload::ComponentImportSection(section) => self.interfaces.add(section.count()),
            Payload::ExportSection(section) => self.exports.add(section.count()),
            Payload::ComponentExportSection(section) => self.exports.add(section.count()),
            Payload::GlobalSection(section) => self.globals.add(section.count()),
            Payload::MemorySection(section) => {
                self.memories.add(section.count())?;
                self.module_memories(section.count())
            }
            Payload::TableSection(section) => self.tables.add(section.count()),
            Payload::ElementSection(section) => self.segments.add(section.count()),
            Payload::DataSection(section) => self.segments.add(section.count()),
            Payload::InstanceSection(section) => self.instances.add(section.count()),
            Payload::ComponentInstanceSection(section) => self.instances.add(section.count()),
            Payload::ComponentAliasSection(section) => self.types.add(section.count()),
            Payload::CustomSection(_) => self.custom.add(1),
            Payload::CodeSectionEntry(body) => check_body(body),
            Payload::ComponentCanonicalSection(section) => {
                self.functions.add(section.count())?;
                for function in section.clone() {
                    check_canonical(&function.map_err(malformed)?)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Counts imports one by one. A section's own count treats several consecutive imports from one
    /// module as one.
    fn module_imports(&mut self, section: &ImportSectionReader<'_>) -> Result<(), UploadError> {
        for import in section.clone().into_imports() {
            self.imports.add(1)?;
            if matches!(import.map_err(malformed)?.ty, TypeRef::Memory(_)) {
                self.module_memories(1)?;
            }
        }
        Ok(())
    }

    /// Counts memories of the innermost module.
    fn module_memories(&mut self, more: u32) -> Result<(), UploadError> {
        let Some(memories) = self.open.last_mut() else {
            return Ok(());
        };
        *memories = memories.saturating_add(more);
        if *memories > MODULE_MEMORIES_MAX {
            // The compiler returns this code for every other disabled feature.
            return Err(refused(
                "compile-failed",
                format!(
                    "the component cannot be compiled: one of its core modules has {memories} memories, and may have \
                     {MODULE_MEMORIES_MAX}; build it without the feature multi-memory"
                ),
            ));
        }
        Ok(())
    }
}

fn check_body(body: &wasmparser::FunctionBody<'_>) -> Result<(), UploadError> {
    if body.range().len() > FUNCTION_BODY_BYTES_MAX {
        return Err(too_complex(format!(
            "a function has more than {FUNCTION_BODY_BYTES_MAX} bytes of code"
        )));
    }
    let mut locals = 0_u64;
    for group in body.get_locals_reader().map_err(malformed)? {
        locals = locals.saturating_add(u64::from(group.map_err(malformed)?.0));
        if locals > LOCALS_MAX {
            return Err(too_complex(format!(
                "a function has more than {LOCALS_MAX} local variables"
            )));
        }
    }
    Ok(())
}

/// Allows only UTF-8. Transcoding would be guest-controlled work in the host, and no supported
/// toolchain needs it.
fn check_canonical(function: &CanonicalFunction) -> Result<(), UploadError> {
    let (CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. }) =
        function
    else {
        return Ok(());
    };
    if options.iter().any(|option| {
        matches!(
            option,
            CanonicalOption::UTF16 | CanonicalOption::CompactUTF16
        )
    }) {
        return Err(refused(
            "unsupported-encoding",
            "the component passes strings that are not UTF-8".to_owned(),
        ));
    }
    Ok(())
}

fn refused(code: &'static str, message: String) -> UploadError {
    UploadError::Refused { code, message }
}

fn too_complex(message: String) -> UploadError {
    refused(
        "too-complex",
        format!("the component is too large to compile safely: {message}"),
    )
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function for `map_err`"
)]
fn malformed(error: wasmparser::BinaryReaderError) -> UploadError {
    refused(
        "not-a-component",
        format!(
            "the component is cut or damaged at byte {}: {}; build and upload it again",
            error.offset(),
            error.message()
        ),
    )
}

fn shown(text: &str) -> String {
    text.chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}
