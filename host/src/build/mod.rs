//! Encoding of core modules as components. `cargo xtask guests` compiles this file too, so it names
//! no other module, and only crates that both programs depend on.

use wit_component::ComponentEncoder;

/// The first bytes of a core module: the magic, version 1 and layer 0.
const CORE_MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";
/// Prefix of the names of custom sections in which bindings store the types of the contract.
const CONTRACT_SECTION: &str = "component-type";
const CUSTOM_SECTION: u8 = 0;
/// Bytes of the longest LEB128 encoding of 32 bits.
const NUMBER_BYTES_MAX: usize = 5;

/// Returns true for a core module, and false for a component.
pub fn is_core_module(bytes: &[u8]) -> bool {
    bytes.starts_with(CORE_MODULE)
}

/// Returns true if a core module carries the types of a contract, so that it can be encoded.
pub fn has_contract(core: &[u8]) -> bool {
    let mut rest = core.get(CORE_MODULE.len()..).unwrap_or_default();
    while let Some((id, after)) = rest.split_first() {
        let Some((length, after)) = number(after) else {
            return false;
        };
        let Some((content, after)) = after.split_at_checked(length) else {
            return false;
        };
        if *id == CUSTOM_SECTION && is_contract(content) {
            return true;
        }
        rest = after;
    }
    false
}

fn is_contract(content: &[u8]) -> bool {
    let Some((length, rest)) = number(content) else {
        return false;
    };
    rest.get(..length)
        .is_some_and(|name| name.starts_with(CONTRACT_SECTION.as_bytes()))
}

/// Decodes a LEB128 number. Returns the number and the remaining bytes.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(NUMBER_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let rest = bytes.get(index + 1..)?;
            return Some((usize::try_from(value).ok()?, rest));
        }
    }
    None
}

/// Encodes a core module that carries the types of its contract as a component.
///
/// # Errors
/// A text that says why the module cannot be encoded, with all causes, because the first sentence
/// alone says little.
pub fn component_of(core: &[u8]) -> Result<Vec<u8>, String> {
    let encode = || {
        ComponentEncoder::default()
            .validate(true)
            .module(core)?
            .encode()
    };
    encode().map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core module with one custom section.
    fn module(name: &str) -> Vec<u8> {
        let mut bytes = CORE_MODULE.to_vec();
        let length = u8::try_from(name.len()).expect("is short");
        bytes.extend([CUSTOM_SECTION, length + 3, length]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend([1, 2]);
        bytes
    }

    #[test]
    fn modules_with_a_contract_are_told_from_others() {
        let with = module("component-type:wit-bindgen:0.61.0:step-plugin:encoded world");
        assert!(is_core_module(&with) && has_contract(&with));
        let without = module("producers");
        assert!(is_core_module(&without) && !has_contract(&without));
        assert!(!is_core_module(b"\0asm\x0d\0\x01\0"));
    }

    #[test]
    fn damaged_modules_have_none() {
        let whole = module("component-type:x");
        for end in 0..whole.len() {
            assert!(
                !has_contract(whole.get(..end).expect("is shorter")),
                "{end}"
            );
        }
        let mut endless = CORE_MODULE.to_vec();
        endless.extend([0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(!has_contract(&endless));
    }

    #[test]
    fn what_cannot_be_encoded_says_why() {
        let error = component_of(b"\0asm\x01\0\0\0\x01").expect_err("is cut");
        assert!(!error.is_empty());
    }
}
