//! Plugins written as WebAssembly text, for components that no compiler makes. wit-component
//! implements the canonical ABI.

use std::collections::BTreeMap;

use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};

use crate::harness::guest_bytes;

const DATA_AT: usize = 1_024;
const PAGE: usize = 65_536;
const ALIGN: usize = 8;

/// A plugin that behaves well until a test changes a field.
pub struct TextGuest {
    pub name: String,
    pub version: String,
    pub steps: Vec<String>,
    pub metrics: Vec<String>,
    /// The output of `run`.
    pub output: String,
    /// Instructions at the beginning of `describe` and of `run`.
    pub describe: String,
    pub run: String,
    /// More fields of the core module: functions, tables, a start function. Imports come before all
    /// other fields.
    pub imports: String,
    pub fields: String,
    /// Core modules, as text, that the component instantiates beside its own.
    pub more_modules: Vec<String>,
    pub encoding: StringEncoding,
    /// True if `imports` names functions of WASI, which `wasi.wit` declares.
    pub imports_wasi: bool,
}

impl TextGuest {
    /// Returns a plugin of version 1.0.0 with the step `go`, whose output is `{}`.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            steps: vec!["go".to_owned()],
            metrics: Vec::new(),
            output: "{}".to_owned(),
            describe: String::new(),
            run: String::new(),
            imports: String::new(),
            fields: String::new(),
            more_modules: Vec::new(),
            encoding: StringEncoding::UTF8,
            imports_wasi: false,
        }
    }

    /// Builds the core module, with the types of the contract in a custom section.
    pub fn core(&self) -> Vec<u8> {
        let mut core = wat::parse_str(self.core_text()).unwrap_or_else(|error| panic!("{error}"));
        // The test guest imports and exports everything that the contract has.
        let DecodedWasm::Component(resolve, world) =
            wit_component::decode(&guest_bytes("scenarios")).expect("decodes")
        else {
            panic!("the test guest is a component");
        };
        wit_component::embed_component_metadata(&mut core, &resolve, world, self.encoding)
            .expect("embeds");
        if self.imports_wasi {
            let mut resolve = wit_parser::Resolve::default();
            let package = resolve
                .push_str("wasi.wit", include_str!("wasi.wit"))
                .expect("is well-formed");
            let world = resolve.select_world(&[package], None).expect("has a world");
            wit_component::embed_component_metadata(&mut core, &resolve, world, self.encoding)
                .expect("embeds");
        }
        core
    }

    /// Builds the component.
    pub fn bytes(&self) -> Vec<u8> {
        let core = self.core();
        let encoder = ComponentEncoder::default()
            .module(&core)
            .expect("is a module of the contract");
        let mut component = encoder.validate(true).encode().expect("encodes");
        let modules = count_modules(&component);
        for (number, text) in self.more_modules.iter().enumerate() {
            let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
            push_section(&mut component, 1, &module);
            let mut instance = vec![1, 0];
            push_number(&mut instance, modules + number);
            instance.push(0);
            push_section(&mut component, 2, &instance);
        }
        component
    }

    fn core_text(&self) -> String {
        let mut data = Data::default();
        let texts = [&self.name, &self.version, &String::new()].map(|text| data.text(text));
        let steps: Vec<[usize; 4]> = self
            .steps
            .iter()
            .map(|name| {
                let (at, length) = data.text(name);
                [at, length, at, 0]
            })
            .collect();
        let steps_at = data.words(steps.iter().flatten().copied());
        let metrics: Vec<_> = self.metrics.iter().map(|name| data.text(name)).collect();
        let metrics_at = data.words(metrics.iter().flat_map(|(at, length)| [*at, *length]));
        let manifest = texts
            .into_iter()
            .chain([(steps_at, steps.len()), (metrics_at, metrics.len())]);
        let manifest_at = data.words(manifest.flat_map(|(at, length)| [at, length]));
        let (output_at, output_length) = data.text(&self.output);
        // The tag of `ok`, padding, the text.
        let answer_at = data.words([0, 0, output_at, output_length]);
        let free_at = DATA_AT + data.0.len() + ALIGN;
        let pages = free_at.div_ceil(PAGE) + 2;
        let bytes: String = data.0.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let Self {
            describe,
            run,
            imports,
            fields,
            ..
        } = self;
        format!(
            r#"(module
              {imports}
              (memory (export "memory") {pages})
              (global $free (mut i32) (i32.const {free_at}))
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
              (func (export "stepwell:plugin/step@0.1.0#describe") (result i32) {describe} (i32.const {manifest_at}))
              (func (export "stepwell:plugin/step@0.1.0#run") (param i32) (result i32) {run} (i32.const {answer_at}))
              {fields}
              (data (i32.const {DATA_AT}) "{bytes}"))"#
        )
    }
}

/// The contents of the guest's memory.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    fn text(&mut self, text: &str) -> (usize, usize) {
        let at = DATA_AT + self.0.len();
        self.0.extend_from_slice(text.as_bytes());
        (at, text.len())
    }

    fn words(&mut self, words: impl IntoIterator<Item = usize>) -> usize {
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        let at = DATA_AT + self.0.len();
        for word in words {
            self.0
                .extend_from_slice(&u32::try_from(word).expect("is small").to_le_bytes());
        }
        at
    }
}

/// Appends a section to a component or a core module.
pub fn push_section(wasm: &mut Vec<u8>, id: u8, content: &[u8]) {
    wasm.push(id);
    push_number(wasm, content.len());
    wasm.extend_from_slice(content);
}

/// Returns a component with the same meaning but other bytes.
pub fn with_custom_section(component: Vec<u8>, name: &str) -> Vec<u8> {
    with_custom_data(component, name, b"")
}

/// Appends a custom section with contents to a component.
pub fn with_custom_data(mut component: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    push_number(&mut content, name.len());
    content.extend_from_slice(name.as_bytes());
    content.extend_from_slice(data);
    push_section(&mut component, 0, &content);
    component
}

/// Returns a component built for another version of the contract, which has five characters like
/// 0.1.0.
pub fn built_for(contract: &str, mut component: Vec<u8>) -> Vec<u8> {
    let (old, new) = (b"@0.1.0", format!("@{contract}"));
    for at in 0..component.len() - old.len() {
        let name = &mut component[at..at + old.len()];
        if name == old {
            name.copy_from_slice(new.as_bytes());
        }
    }
    component
}

/// Appends a number as LEB128.
pub fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("has 7 bits");
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

fn count_modules(component: &[u8]) -> usize {
    let mut depth = 0;
    let mut found = BTreeMap::<usize, usize>::new();
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.expect("is well-formed") {
            wasmparser::Payload::ModuleSection { .. } => {
                *found.entry(depth).or_default() += 1;
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    found.get(&0).copied().unwrap_or_default()
}
