//! By what a network knows the pictures again that it was trained on.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::entries::name_of;
use super::folders::Class;
use super::names::normal;

/// Files that are remembered.
const FILES: usize = 24;

/// A few of the files that a network was trained on, each as a hash of its class, name and size: enough to recognise the folder,
/// wherever it is now and though files were added to it or removed, without its path or names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch(Vec<u64>);

impl Sketch {
    /// Of these classes: the files with the lowest hashes.
    pub(super) fn of(classes: &[Class]) -> Self {
        let mut hashes: Vec<u64> = hashes(classes).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.truncate(FILES);
        Self(hashes)
    }

    /// The share of the remembered files that are among those of these classes.
    pub(super) fn share(&self, classes: &[Class]) -> f64 {
        let found: HashSet<u64> = hashes(classes).collect();
        let known = self.0.iter().filter(|hash| found.contains(hash)).count();
        known as f64 / self.0.len().max(1) as f64
    }
}

fn hashes(classes: &[Class]) -> impl Iterator<Item = u64> {
    classes.iter().flat_map(|class| class.files.iter().map(|file| hash(&class.name, file)))
}

/// 48 bits, which every program that reads JSON keeps.
fn hash(class: &str, file: &Path) -> u64 {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let hash = Sha256::digest(format!("{}/{} {size}", normal(class), normal(&name_of(file))));
    u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes")) >> 16
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_folder_is_known_again_as_long_as_most_of_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let classes = |place: &str, names: std::ops::Range<usize>, bytes: usize| {
            let folder = dir.path().join(place).join("cat");
            fs::create_dir_all(&folder).unwrap();
            let files: Vec<PathBuf> = names.map(|name| folder.join(format!("{name}.png"))).collect();
            files.iter().for_each(|file| fs::write(file, vec![0; bytes]).unwrap());
            vec![Class { name: "cat".into(), files }]
        };
        let sketch = Sketch::of(&classes("a", 0..200, 9));
        assert_eq!(sketch.0.len(), FILES);
        assert!((sketch.share(&classes("moved", 0..200, 9)) - 1.0).abs() < 1e-9);
        assert!((sketch.share(&classes("grown", 0..900, 9)) - 1.0).abs() < 1e-9);
        let most = sketch.share(&classes("shrunk", 20..200, 9));
        assert!(most > 0.6 && most < 1.0, "{most}");
        // The same names do not make the same pictures.
        assert_eq!(sketch.share(&classes("other", 0..200, 10)), 0.0);
        assert_eq!(Sketch::default().share(&classes("b", 0..3, 1)), 0.0);
        let text = serde_json::to_string(&sketch).unwrap();
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
    }
}
