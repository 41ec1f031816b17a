//! Types and traits generated from the contract in `wit/`.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "step-plugin",
    imports: {
        "stepwell:plugin/storage.[method]bucket.get": async | trappable,
        "stepwell:plugin/storage.[method]bucket.get-many": async | trappable,
        "stepwell:plugin/storage.[method]bucket.set": async | trappable,
        "stepwell:plugin/storage.[method]bucket.set-many": async | trappable,
        "stepwell:plugin/storage.[method]bucket.list": async | trappable,
        "stepwell:plugin/batch.create-instances": async | trappable,
        "stepwell:plugin/batch.update-instances": async | trappable,
        "stepwell:plugin/batch.get-statuses": async | trappable,
        "stepwell:plugin/workflows.get-workflow": async | trappable,
        "stepwell:plugin/workflows.get-version": async | trappable,
        "stepwell:plugin/workflows.get-instance": async | trappable,
        "stepwell:plugin/workflows.pending-approvals": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "stepwell:plugin/storage.bucket": crate::runtime::resources::Bucket,
        "stepwell:plugin/metrics.timer": crate::runtime::resources::Timer,
    },
});
