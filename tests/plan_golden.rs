//! The plan of a training step of the seed network, as text. A change of it should be seen, and wanted:
//! `SHADERNET_BLESS=1 cargo test --release --test plan_golden` writes it anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use shadernet::batch::BatchSettings;
use shadernet::model::Model;
use shadernet::plan::{Plan, PlanOptions};

#[test]
fn the_seed_networks_plan_is_the_golden_one() {
    let model = Model::parse(include_str!("../data/models/seed.toml"), "seed.toml").unwrap();
    let batch = BatchSettings {
        batch_size: 128,
        image_count: 60_000,
        image: model.input,
        shuffle: true,
        augment: model.train.augment,
        mean: 0.1307,
        std: 0.3081,
    };
    let plan = Plan::training(&model, &batch, &model.train, PlanOptions { replicas: 1, reuse: true });
    let text = plan.to_string();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seed.txt");
    if std::env::var_os("SHADERNET_BLESS").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &text).unwrap();
    }
    let want = fs::read_to_string(&golden).unwrap();
    let difference = text.lines().zip(want.lines()).position(|(got, want)| got != want);
    if let Some(line) = difference {
        let (got, want) = (text.lines().nth(line).unwrap(), want.lines().nth(line).unwrap());
        panic!("line {}:\n  now    {got}\n  golden {want}", line + 1);
    }
    assert_eq!(text.lines().count(), want.lines().count());

    // Plain data: it survives being written down.
    let json = serde_json::to_string(&plan).unwrap();
    assert!(serde_json::from_str::<Plan>(&json).unwrap() == plan, "the plan changed on its way through JSON");
}
