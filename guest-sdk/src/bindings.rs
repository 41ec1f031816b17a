//! Bindings that wit-bindgen generates from `wit/`. No other module names wit-bindgen. Plugins
//! export through [`plugin!`](crate::plugin) and import through the typed modules, so a new version
//! of wit-bindgen changes nothing for plugins.

wit_bindgen::generate!({
    path: "../wit",
    world: "step-plugin",
    pub_export_macro: true,
    default_bindings_module: "stepwell_guest::bindings",
});
