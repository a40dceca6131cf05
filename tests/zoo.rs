//! The networks that ship match their table.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use shadernet::checkpoint::Checkpoint;
use shadernet::device::Device;
use shadernet::eval::{evaluate, load_test_images};
use shadernet::model::Model;

#[test]
fn the_table_of_networks_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("data/models");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut rows = Vec::new();
    let lines = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, parameters, _, weights] = cells[..] else { panic!("{line}") };
        let text = fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        let model = Model::parse(&text, name).unwrap();
        assert_eq!(model.name, name);
        assert_eq!(model.parameter_count().to_string(), parameters.replace(',', ""), "{name}");
        rows.push(format!("{name}.toml"));
        if weights.is_empty() {
            continue;
        }
        let checkpoint = Checkpoint::load(folder.join(format!("{name}.safetensors"))).unwrap();
        // The weights are those of the model file next to them, trained with its recipe.
        assert_eq!(checkpoint.model.to_toml(), model.to_toml(), "{name}");
        rows.push(format!("{name}.safetensors"));
        // Its pictures are not here: data/experiments/picture_sets.py makes them.
        if let Some(said) = weights.strip_suffix(" % of emoji") {
            assert_eq!(format!("{:.2}", checkpoint.test_accuracy), said, "{name}");
            continue;
        }
        let (images, _) = load_test_images(&root.join("data/mnist"), &checkpoint).unwrap();
        let accuracy = evaluate(&checkpoint, &images, &Device::cpu()).unwrap().accuracy();
        let said: f64 = weights.trim_end_matches(" %").parse().unwrap();
        // A different order of summation can change an answer or two.
        assert!((accuracy - said).abs() < 0.025, "{name}: {accuracy}, and the table says {said}");
    }
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.retain(|file| file != "README.md");
    files.sort();
    rows.sort();
    assert_eq!(rows, files);
}
