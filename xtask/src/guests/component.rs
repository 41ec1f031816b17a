//! Encoding of core modules as components, with the list of a component's imports.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wit_component::DecodedWasm;

use super::build::CoreModule;
use super::error::GuestsError;

/// The host's encoder, from the same file, so that both programs produce the same bytes.
#[path = "../../../host/src/build/mod.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "the host asks more of it"))]
mod encoding;

/// A plugin that can be uploaded.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
    /// Imported interfaces, `stepwell:plugin/log@0.1.0` for example.
    pub(crate) imports: Vec<String>,
}

impl Component {
    /// Encodes a core module and writes the component, unless the same bytes are there already.
    pub(crate) fn encode(module: &CoreModule, folder: &Path) -> Result<Self, GuestsError> {
        let fail = |reason: String| GuestsError::Component {
            name: module.name.clone(),
            reason,
        };
        let core = fs::read(&module.path).map_err(GuestsError::at(&module.path))?;
        let component = encoding::component_of(&core).map_err(fail)?;
        let imports = imports(&component).map_err(fail)?;
        let path = folder.join(&module.name).with_extension("wasm");
        replace(&path, &component).map_err(GuestsError::at(&path))?;
        Ok(Self {
            name: module.name.clone(),
            path,
            bytes: component.len(),
            imports,
        })
    }
}

/// Returns the names of a component's imports, such as `stepwell:plugin/log@0.1.0`.
///
/// # Errors
/// The bytes are not a valid component.
fn imports(component: &[u8]) -> Result<Vec<String>, String> {
    match wit_component::decode(component).map_err(|error| format!("{error:#}"))? {
        DecodedWasm::WitPackage(..) => Err("it holds interfaces and no code".into()),
        DecodedWasm::Component(resolve, world) => {
            let world = resolve.worlds.get(world).ok_or("it has no world")?;
            Ok(world
                .imports
                .keys()
                .map(|key| resolve.name_world_key(key))
                .collect())
        }
    }
}

/// Writes a temporary file and renames it, so that a reader such as a running host sees the old
/// file or the new one. Equal bytes are not written again: an unchanged modification time tells
/// other programs that there is nothing to do.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(readable())
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Returns permissions for all readers. A temporary file is readable only for its owner, but a
/// component is no secret.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
