//! The first look at an upload: is it a component, what does it import and export, and is it small enough to be
//! compiled? Reads section by section and runs nothing; the compiler validates the rest.
//!
//! The bounds are ours and not the compiler's: they keep a hostile file from costing minutes of compile time before
//! anything can be said about it. Components from Rust, C, Go, JavaScript and Python stay far below them.

use wasmparser::{CanonicalFunction, CanonicalOption, Encoding, Parser, Payload};

use super::UploadError;
use crate::model::plugin::Interface;
use crate::runtime::{OFFERED, REQUIRED_EXPORT};

const FUNCTIONS_MAX: u32 = 200_000;
const FUNCTION_BODY_BYTES_MAX: usize = 1 << 20;
const MODULES_MAX: u32 = 64;
const NESTING_MAX: u32 = 8;
const TYPES_MAX: u32 = 50_000;
const SEGMENTS_MAX: u32 = 100_000;
const MEMORIES_MAX: u32 = 64;
const TABLES_MAX: u32 = 64;
const INSTANCES_MAX: u32 = 256;
const IMPORTS_MAX: u32 = 1_000;
const EXPORTS_MAX: u32 = 10_000;
const GLOBALS_MAX: u32 = 50_000;
const CUSTOM_SECTIONS_MAX: u32 = 1_000;
const LOCALS_MAX: u64 = 50_000;

/// What an upload imports and exports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Of the component itself, in order.
    pub(super) imports: Vec<String>,
    /// Of the component itself, in order.
    pub(super) exports: Vec<String>,
}

impl Scan {
    /// The interfaces among the imports that need a grant.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = Interface> {
        [Interface::Storage, Interface::Batch, Interface::Workflows].into_iter().filter(|interface| {
            let name = format!("stepwell:plugin/{}@", interface.as_str());
            self.imports.iter().any(|import| import.starts_with(&name))
        })
    }
}

/// Looks at an upload.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, UploadError> {
    check_kind(bytes)?;
    let mut scan = Scan::default();
    let mut counts = Counts::default();
    let mut nesting = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                nesting += 1;
                if nesting > NESTING_MAX {
                    return Err(too_complex(format!("components nest deeper than {NESTING_MAX}")));
                }
            }
            Payload::End(_) => nesting = nesting.saturating_sub(1),
            Payload::ComponentImportSection(imports) if nesting == 0 => {
                counts.imports.add(imports.count())?;
                for import in imports.clone() {
                    scan.imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if nesting == 0 => {
                counts.exports.add(exports.count())?;
                for export in exports.clone() {
                    scan.exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
        counts.count(&payload)?;
    }
    check_imports(&scan)?;
    if !scan.exports.iter().any(|export| export == REQUIRED_EXPORT) {
        return Err(refused(
            "missing-export",
            format!(
                "the component does not export `{REQUIRED_EXPORT}`{}; a plugin made with the crate stepwell-guest and \
                 its `plugin!` macro does",
                match scan.exports.first() {
                    Some(export) => format!(" (it exports `{}`)", shown(export)),
                    None => " (it exports nothing)".to_owned(),
                }
            ),
        ));
    }
    Ok(scan)
}

/// A file that is something else altogether gets an answer that names what it is.
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
        [b'(', ..] | [b';', b';', ..] => "this looks like WebAssembly text; upload the binary form of the component",
        [b'P', b'K', ..] | [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] => {
            "this is an archive or compressed; upload the component itself"
        }
        _ => "this is not WebAssembly: a component begins with the bytes 00 61 73 6d 0d 00 01 00",
    };
    Err(refused("not-a-component", what.to_owned()))
}

fn check_imports(scan: &Scan) -> Result<(), UploadError> {
    let Some(unknown) = scan.imports.iter().find(|import| !OFFERED.contains(&import.as_str())) else { return Ok(()) };
    let advice = if unknown.starts_with("wasi:") {
        "WASI is not offered to plugins: build for the target wasm32-unknown-unknown (`cargo xtask guests` does), and \
         use `runtime`, `log` and `storage` of the contract in place of clocks, output and files"
    } else if unknown.starts_with("stepwell:plugin/") {
        "this host offers the contract in version 0.1.0: build the plugin with the stepwell-guest of this release"
    } else {
        "a plugin can import only the interfaces of stepwell:plugin@0.1.0"
    };
    Err(refused("unknown-import", format!("the component imports `{}`. {advice}", shown(unknown))))
}

#[derive(Default)]
struct Counts {
    functions: Bounded<FUNCTIONS_MAX>,
    modules: Bounded<MODULES_MAX>,
    types: Bounded<TYPES_MAX>,
    segments: Bounded<SEGMENTS_MAX>,
    memories: Bounded<MEMORIES_MAX>,
    tables: Bounded<TABLES_MAX>,
    instances: Bounded<INSTANCES_MAX>,
    imports: Bounded<IMPORTS_MAX>,
    exports: Bounded<EXPORTS_MAX>,
    globals: Bounded<GLOBALS_MAX>,
    custom: Bounded<CUSTOM_SECTIONS_MAX>,
}

#[derive(Default)]
struct Bounded<const MAX: u32>(u32);

impl<const MAX: u32> Bounded<MAX> {
    fn add(&mut self, more: u32) -> Result<(), UploadError> {
        self.0 = self.0.saturating_add(more);
        if self.0 > MAX {
            return Err(too_complex(format!("it has {} or more items of one kind, and may have {MAX}", self.0)));
        }
        Ok(())
    }
}

impl Counts {
    fn count(&mut self, payload: &Payload<'_>) -> Result<(), UploadError> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => self.modules.add(1),
            Payload::TypeSection(section) => self.types.add(section.count()),
            Payload::CoreTypeSection(section) => self.types.add(section.count()),
            Payload::ComponentTypeSection(section) => self.types.add(section.count()),
            Payload::FunctionSection(section) => self.functions.add(section.count()),
            Payload::ImportSection(section) => self.exports.add(section.count()),
            Payload::ExportSection(section) => self.exports.add(section.count()),
            Payload::GlobalSection(section) => self.globals.add(section.count()),
            Payload::MemorySection(section) => self.memories.add(section.count()),
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
}

fn check_body(body: &wasmparser::FunctionBody<'_>) -> Result<(), UploadError> {
    if body.range().len() > FUNCTION_BODY_BYTES_MAX {
        return Err(too_complex(format!("a function has more than {FUNCTION_BODY_BYTES_MAX} bytes of code")));
    }
    let mut locals = 0_u64;
    for group in body.get_locals_reader().map_err(malformed)? {
        locals = locals.saturating_add(u64::from(group.map_err(malformed)?.0));
        if locals > LOCALS_MAX {
            return Err(too_complex(format!("a function has more than {LOCALS_MAX} local variables")));
        }
    }
    Ok(())
}

/// Only UTF-8: transcoding is guest-controlled work in the host that no toolchain of ours asks for.
fn check_canonical(function: &CanonicalFunction) -> Result<(), UploadError> {
    let (CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. }) = function else {
        return Ok(());
    };
    if options.iter().any(|option| matches!(option, CanonicalOption::UTF16 | CanonicalOption::CompactUTF16)) {
        return Err(refused("unsupported-encoding", "the component passes strings that are not UTF-8".to_owned()));
    }
    Ok(())
}

fn refused(code: &'static str, message: String) -> UploadError {
    UploadError::Refused { code, message }
}

fn too_complex(message: String) -> UploadError {
    refused("too-complex", format!("the component is too large to compile safely: {message}"))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for `map_err`")]
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
    text.chars().take(100).flat_map(char::escape_debug).collect()
}
