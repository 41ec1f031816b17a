//! Components that cost much more than their size suggests: compile bombs.

use std::fmt::Write as _;

use super::{assert_well, host, lists, refuse, upload, upload_to};
use crate::harness::{TestHost, guest_bytes};
use crate::text_guest::{TextGuest, push_number, push_section};

/// Wraps a core module in a component.
fn around(module: &[u8]) -> Vec<u8> {
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    push_section(&mut component, 1, module);
    component
}

/// Returns a core module with one function of type `() -> ()`.
fn module_with_body(body: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    push_section(&mut module, 1, &[1, 0x60, 0, 0]);
    push_section(&mut module, 3, &[1, 0]);
    let mut code = vec![1];
    push_number(&mut code, body.len());
    code.extend_from_slice(body);
    push_section(&mut module, 10, &code);
    module
}

#[test]
fn a_huge_function_is_refused() {
    let mut body = vec![1; 2 << 20];
    body.splice(0..1, [0]);
    body.push(0x0b);
    refuse(
        around(&module_with_body(&body)),
        "too-complex",
        &["bytes of code"],
    );
}

#[test]
fn a_function_with_very_many_locals_is_refused() {
    let mut body = vec![1];
    push_number(&mut body, 100_000);
    body.extend_from_slice(&[0x7f, 0x0b]);
    refuse(
        around(&module_with_body(&body)),
        "too-complex",
        &["local variables"],
    );
}

#[test]
fn very_many_types_are_refused() {
    let mut types = Vec::new();
    push_number(&mut types, 1_000_000);
    types.extend([0x60, 0, 0].repeat(1_000_000));
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    push_section(&mut module, 1, &types);
    refuse(around(&module), "too-complex", &["1000000"]);
}

#[test]
fn very_many_functions_are_refused() {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    push_section(&mut module, 1, &[1, 0x60, 0, 0]);
    let mut functions = Vec::new();
    push_number(&mut functions, 300_000);
    functions.extend(vec![0; 300_000]);
    push_section(&mut module, 3, &functions);
    refuse(around(&module), "too-complex", &["300000"]);
}

/// Returns a core module with `count` imports: memories, or functions of type `() -> ()`.
fn module_with_imports(count: usize, of_type: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    push_section(&mut module, 1, &[1, 0x60, 0, 0]);
    let mut imports = Vec::new();
    push_number(&mut imports, count);
    for _ in 0..count {
        imports.extend_from_slice(b"\x01m\x01i");
        imports.extend_from_slice(of_type);
    }
    push_section(&mut module, 2, &imports);
    module
}

#[test]
fn a_refusal_names_the_kind_of_item_that_exceeds_its_bound() {
    let mut exports = b"\0asm\x01\0\0\0".to_vec();
    push_section(&mut exports, 1, &[1, 0x60, 0, 0]);
    push_section(&mut exports, 3, &[1, 0]);
    let mut names = Vec::new();
    push_number(&mut names, 9_000);
    for number in 0..9_000 {
        let name = format!("{number:04}");
        push_number(&mut names, name.len());
        names.extend_from_slice(name.as_bytes());
        names.extend_from_slice(&[0, 0]);
    }
    push_section(&mut exports, 7, &names);
    push_section(&mut exports, 10, &[1, 2, 0, 0x0b]);
    // As many imports and exports as there may be of each, and more than there may be of one.
    let imports = module_with_imports(9_000, &[0, 0]);
    let mut both = b"\0asm\x0d\0\x01\0".to_vec();
    push_section(&mut both, 1, &imports);
    push_section(&mut both, 1, &exports);
    refuse(&both, "missing-export", &[]);
    push_section(&mut both, 1, &imports);
    refuse(
        &both,
        "too-complex",
        &["imports of core modules", "10001", "10000"],
    );
    refuse(around(&exports), "missing-export", &[]);
    let mut twice = around(&exports);
    push_section(&mut twice, 1, &exports);
    refuse(twice, "too-complex", &["18000 or more exports"]);
}

#[test]
fn a_core_module_has_one_memory() {
    let memory = [2, 0, 1];
    refuse(
        around(&module_with_imports(1, &memory)),
        "missing-export",
        &[],
    );
    refuse(
        around(&module_with_imports(2, &memory)),
        "compile-failed",
        &["2 memories", "multi-memory"],
    );
    let mut defined = module_with_imports(1, &memory);
    push_section(&mut defined, 5, &[1, 0, 1]);
    refuse(
        around(&defined),
        "compile-failed",
        &["2 memories", "multi-memory"],
    );
}

#[test]
fn a_count_that_is_a_lie_is_refused() {
    for section in [1, 2, 3, 4, 5, 6, 7, 9, 11] {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        push_section(&mut module, section, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let reply = upload(around(&module));
        assert_eq!(reply.status, 422, "section {section}: {}", reply.json);
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        push_section(&mut component, section, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let reply = upload(component);
        assert_eq!(reply.status, 422, "section {section}: {}", reply.json);
    }
    assert_well(host());
}

#[test]
fn components_that_nest_too_deeply_are_refused() {
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..1_000 {
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        push_section(&mut outer, 4, &component);
        component = outer;
    }
    refuse(component, "too-complex", &["nest"]);
}

#[test]
fn types_that_nest_too_deeply_are_refused() {
    // A component type (0x41) with one declaration, a type (0x01), which is a component type, and so on.
    let mut section = vec![1];
    section.extend([0x41, 1, 1].repeat(100_000));
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    push_section(&mut component, 7, &section);
    let reply = upload(component);
    assert_eq!(reply.status, 422, "{}", reply.json);
    assert_well(host());
}

#[test]
fn a_giant_branch_table_compiles_or_is_refused() {
    let mut body = vec![0, 0x02, 0x40, 0x41, 0, 0x0e];
    push_number(&mut body, 900_000);
    body.extend(vec![0; 900_001]);
    body.extend_from_slice(&[0x0b, 0x0b]);
    let module = module_with_body(&body);
    let reply = upload(around(&module));
    // The scan finds no export. What counts is that nothing else was affected.
    assert_eq!(reply.status, 422, "{}", reply.json);
    let targets = "0 ".repeat(900_000);
    let fields = format!("(func (block (br_table {targets} (i32.const 0))))");
    let reply = upload(
        TextGuest {
            fields,
            ..TextGuest::named("branches")
        }
        .bytes(),
    );
    assert!(matches!(reply.status, 201 | 422), "{}", reply.json);
    assert_well(host());
}

/// Returns a plugin that compiles for seconds: each block of its functions merges hundreds of live
/// values.
pub fn slow_to_compile(name: &str, functions: usize) -> Vec<u8> {
    let mut fields = String::new();
    for function in 0..functions {
        let locals = 400;
        write!(fields, "(func $slow{function} (param i32)").expect("writes");
        for _ in 0..locals {
            fields.push_str("(local i32)");
        }
        for step in 0..4_000 {
            let (to, from) = (step % locals + 1, step * 7 % locals + 1);
            write!(
                fields,
                "(if (local.get 0) (then (local.set {to} (i32.add (local.get {from}) (i32.const {step})))) \
                 (else (local.set {from} (local.get {to}))))"
            )
            .expect("writes");
        }
        fields.push(')');
    }
    TextGuest {
        fields,
        ..TextGuest::named(name)
    }
    .bytes()
}

#[test]
fn a_function_that_is_slow_to_compile_does_not_outlive_its_time() {
    let host = TestHost::with(&[("plugins.compile_timeout", "1s")]);
    let reply = upload_to(&host, slow_to_compile("slow", 40));
    assert_eq!(
        (reply.status, reply.code()),
        (422, "compile-failed"),
        "{}",
        reply.json
    );
    assert!(!lists(&host, "slow"));
    assert_well(&host);
    assert_eq!(
        upload_to(&host, TextGuest::named("quick").bytes()).status,
        201,
        "the next one has its turn"
    );
}

#[test]
fn a_compile_that_needs_too_much_memory_is_refused() {
    let host = TestHost::with(&[("plugins.compile_memory_bytes_max", "60000000")]);
    let reply = upload_to(&host, guest_bytes("scenarios"));
    assert_eq!(
        (reply.status, reply.code()),
        (422, "compile-failed"),
        "{}",
        reply.json
    );
    assert!(!lists(&host, "scenarios"));
    assert_well(&host);
}

#[test]
fn a_component_with_more_than_the_pool_holds_is_told_so() {
    let memories = TextGuest {
        more_modules: vec!["(module (memory 1))".to_owned(); 40],
        ..TextGuest::named("memories")
    };
    refuse(
        memories.bytes(),
        "too-complex",
        &["it has 41 Wasm linear memories, and may have 2"],
    );
    let tables = TextGuest {
        fields: "(table 1 funcref)".repeat(60),
        ..TextGuest::named("tables")
    };
    refuse(tables.bytes(), "too-complex", &["tables"]);
    let large = TextGuest {
        more_modules: vec!["(module (memory 65536))".to_owned()],
        ..TextGuest::named("large")
    };
    refuse(large.bytes(), "too-complex", &["memory"]);
    let table = TextGuest {
        fields: "(table 10000000 funcref)".to_owned(),
        ..TextGuest::named("large")
    };
    refuse(table.bytes(), "too-complex", &["table"]);
    let many = TextGuest {
        more_modules: vec!["(module)".to_owned(); 60],
        ..TextGuest::named("instances")
    };
    let reply = upload(many.bytes());
    assert!(matches!(reply.status, 201 | 422), "{}", reply.json);
}

#[test]
fn features_that_are_switched_off_are_refused() {
    for (name, module) in [
        ("memory64", "(module (memory i64 1))"),
        ("threads", "(module (memory 1 1 shared))"),
        ("multi-memory", "(module (memory 1) (memory 1))"),
        ("exceptions", "(module (tag))"),
        ("gc", "(module (type (struct (field i32))))"),
    ] {
        let guest = TextGuest {
            more_modules: vec![module.to_owned()],
            ..TextGuest::named("feature")
        };
        // wit-component checks nothing that is added after it.
        let reply = upload(guest.bytes());
        assert_eq!(
            (reply.status, reply.code()),
            (422, "compile-failed"),
            "{name}: {}",
            reply.json
        );
    }
    assert!(!lists(host(), "feature"));
}
