//! `doctor` finds nothing wrong with a right adapter, and something with a broken one.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use shadernet::doctor::{Report, examine};
use shadernet::gpu::{Adapters, GpuOptions};
use shadernet::model::Model;
use shadernet::shader;

const MODEL: &str = r#"
    name = "small"
    input = [1, 10, 9]
    layers = [
        { type = "conv2d", out_channels = 5, kernel = 3 },
        { type = "relu" },
        { type = "batch_norm2d" },
        { type = "max_pool2d", kernel = 2 },
        { type = "dropout", rate = 0.1 },
        { type = "conv2d", out_channels = 3, kernel = 3 },
        { type = "global_avg_pool2d" },
    ]
    [train]
    average_decay = 0.9
    optimizer = { type = "adam" }
    augment = { rotate_degrees = 5.0 }
"#;

fn report(options: GpuOptions) -> Option<Report> {
    // Says what to do where there is no adapter.
    common::gpu()?;
    let adapters = Adapters::find();
    let index = std::env::var("SHADERNET_TEST_ADAPTER").map_or(0, |name| adapters.named(&name).unwrap());
    Some(examine(&Model::parse(MODEL, "small").unwrap(), &adapters, index, options).unwrap())
}

#[test]
fn a_right_adapter_is_well() {
    let Some(report) = report(GpuOptions::DEFAULT) else { return };
    assert!(report.is_well(), "{report:?}");
    let table = report.kernels.to_string();
    for kind in
        ["conv2d.grad_weight", "batch_norm2d.inv_std", "adam.params", "batch.input", "cross_entropy.loss"]
    {
        assert!(table.contains(kind), "{kind} was not examined:\n{table}");
    }
}

#[test]
fn a_broken_kernel_is_named() {
    for (name, line, broken, kind) in [
        ("adam", "BETA1 * first_moment", "0.999 * BETA1 * first_moment", "weight"),
        ("max_pool2d", "value > best.value", "value >= best.value", "max_pool1.grad_input"),
        ("batch_norm2d", "inverseSqrt(batch_var + EPS)", "inverseSqrt(batch_var)", "batch_norm1.inv_std"),
    ] {
        let source = shader::find(name).source;
        assert!(source.contains(line), "{name}.wgsl has no {line}");
        let text: &'static str = Box::leak(source.replace(line, broken).into_boxed_str());
        let Some(report) = report(GpuOptions { replace: Some((name, text)), ..GpuOptions::DEFAULT }) else {
            return;
        };
        assert!(!report.is_well(), "{name}: {broken} was not found");
        let message = report.wrong_kernel.unwrap();
        assert!(message.contains(kind), "{message}");
    }
}
