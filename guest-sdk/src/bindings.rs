//! What wit-bindgen makes of `wit/`: the only module that knows it. Plugins export through [`plugin!`](crate::plugin)
//! and import through the typed modules, so that a new version of wit-bindgen is no change for them.

wit_bindgen::generate!({
    path: "../wit",
    world: "step-plugin",
    pub_export_macro: true,
    default_bindings_module: "stepwell_guest::bindings",
});
