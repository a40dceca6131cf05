//! A suite file: groups of arms, each a model with changes to its recipe, and their numbers of seeds.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toml::Table;

use crate::config::{Criterion, Document, MAX_TEXT, ModelConfig, TrainConfig, from_table, shortest_floats};
use crate::error::{Error, Result};
use crate::files::{hex, read_at_most};
use crate::model::Model;

/// A suite of experiments.
#[derive(Debug)]
pub struct Suite {
    /// Name, for the report.
    pub name: String,
    /// Accuracy in percent; the report lists the first epoch that reaches it, and how many seeds end at it or above.
    pub target: f64,
    /// Arms that answer one question.
    pub groups: Vec<Group>,
}

/// Consecutive seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// The first.
    pub first_seed: u32,
    /// How many.
    pub seeds: u32,
}

/// The choice among candidates, on images held out of the training set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// Training images to hold out; the test set is not opened.
    pub hold_out: usize,
    /// The first seed.
    pub first_seed: u32,
    /// How many.
    pub seeds: u32,
    /// The criterion for the best candidate.
    #[serde(default)]
    pub by: Criterion,
}

impl Seeds {
    /// All of them.
    pub fn range(self) -> Range<u32> {
        self.first_seed..self.first_seed + self.seeds
    }
}

impl Select {
    /// Its seeds.
    pub fn range(self) -> Range<u32> {
        Seeds { first_seed: self.first_seed, seeds: self.seeds }.range()
    }
}

/// Arms that answer one question.
#[derive(Debug)]
pub struct Group {
    /// Name, also used for files and tables.
    pub name: String,
    /// The question.
    pub question: String,
    /// How recipes are chosen for arms with several candidates.
    pub select: Select,
    /// The seeds for testing the settled recipes.
    pub test: Seeds,
    /// The arms; the others are compared with the first.
    pub arms: Vec<Arm>,
}

/// One way to train one network.
#[derive(Debug)]
pub struct Arm {
    /// Name within the group.
    pub name: String,
    /// Recipes to choose from; one if there is nothing to choose.
    pub candidates: Vec<Recipe>,
}

/// A network and everything that determines its training, except for the seed.
#[derive(Debug)]
pub struct Recipe {
    /// What distinguishes it from the arm's other candidates, as in the suite file; empty if it is the only one.
    pub change: String,
    /// The network with its recipe.
    pub model: Model,
    /// Hash of the model with its recipe, but without its name: recipes with equal hashes share their runs.
    pub fingerprint: String,
}

/// The two phases of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Candidates are trained on a part of the training set and evaluated on the rest.
    Select,
    /// The chosen ones are trained on the whole training set and evaluated on the test set.
    Test,
}

impl Phase {
    /// As written in CSV files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Test => "test",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default = "default_target")]
    target: f64,
    #[serde(default = "default_select")]
    select: Select,
    test: Seeds,
    groups: Vec<GroupFile>,
}

fn default_target() -> f64 {
    99.4
}

fn default_select() -> Select {
    Select { hold_out: 5000, first_seed: 900, seeds: 2, by: Criterion::Accuracy }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    name: String,
    question: String,
    /// Overrides the suite's.
    select: Option<Select>,
    test: Option<Seeds>,
    arms: Vec<ArmFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmFile {
    name: String,
    model: PathBuf,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    candidates: Vec<Table>,
}

impl Suite {
    /// Reads a suite; model paths are relative to the suite's folder.
    ///
    /// # Errors
    /// A file that cannot be read or is invalid, or such a model, with the arm it belongs to.
    ///
    /// # Examples
    /// ```
    /// use shadernet::experiments::{Rows, Suite, report};
    ///
    /// let suite = Suite::load("data/experiments/small.toml".as_ref())?;
    /// assert!(suite.arms().count() > 2);
    /// // The runs described in docs/experiments, and the report that they make.
    /// let rows = Rows::read("docs/experiments/small".as_ref(), "mine.csv")?;
    /// assert!(report(&suite, &rows).text.starts_with("# Experiments: "));
    /// # Ok::<(), shadernet::error::Error>(())
    /// ```
    pub fn load(path: &Path) -> Result<Self> {
        let fail = |message: String| Error::Config { path: path.display().to_string(), line: None, message };
        let text = read_text(path)?;
        let file: File = Document::parse(&text, &path.display().to_string())?.read()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut groups: Vec<Group> = Vec::new();
        for group in file.groups {
            let place = |arm: &str| format!("group {:?}, arm {arm:?}", group.name);
            if groups.iter().any(|other| other.name == group.name) || !is_file_name(&group.name) {
                let message = format!(
                    "group {:?}: names must be unique, and made of letters, digits and '-'",
                    group.name
                );
                return Err(fail(message));
            }
            let mut arms: Vec<Arm> = Vec::new();
            for arm in &group.arms {
                if arms.iter().any(|other| other.name == arm.name) {
                    return Err(fail(format!("{}: this name is taken", place(&arm.name))));
                }
                let made =
                    self::arm(folder, arm).map_err(|error| fail(format!("{}: {error}", place(&arm.name))))?;
                arms.push(made);
            }
            if arms.is_empty() {
                return Err(fail(format!("group {:?} has no arms", group.name)));
            }
            let (select, test) = (group.select.unwrap_or(file.select), group.test.unwrap_or(file.test));
            groups.push(Group { name: group.name, question: group.question, select, test, arms });
        }
        check_seeds(&groups).map_err(fail)?;
        if groups.is_empty() {
            return Err(fail("groups is empty: there is nothing to run".into()));
        }
        Ok(Self { name: file.name, target: file.target, groups })
    }

    /// Training images held out in the select phase.
    pub fn hold_out(&self) -> usize {
        self.groups[0].select.hold_out
    }

    /// Every arm with its group.
    pub fn arms(&self) -> impl Iterator<Item = (&Group, &Arm)> {
        self.groups.iter().flat_map(|group| group.arms.iter().map(move |arm| (group, arm)))
    }
}

/// Seeds used for choosing are not fresh, in any group; and rows are shared, so all hold out the same images.
fn check_seeds(groups: &[Group]) -> Result<(), String> {
    for Group { name, select, test, .. } in groups {
        let hold_out = groups[0].select.hold_out;
        if select.hold_out != hold_out {
            return Err(format!(
                "group {name:?}: hold_out = {}, but another group has {hold_out}",
                select.hold_out
            ));
        }
        for (first, count) in [(select.first_seed, select.seeds), (test.first_seed, test.seeds)] {
            if count == 0 || first.checked_add(count).is_none() {
                return Err(format!(
                    "group {name:?}: seeds = {count}, first_seed = {first}: there must be at least one seed, and all \
                     below 2³²"
                ));
            }
        }
    }
    for select in groups.iter().map(|group| group.select.range()) {
        for group in groups {
            let test = group.test.range();
            if select.start < test.end && test.start < select.end {
                return Err(format!(
                    "group {:?}: its test needs other seeds than `select`, since a recipe chosen with a seed is not \
                     tested fairly with it",
                    group.name
                ));
            }
        }
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The text of a suite or of one of its models.
fn read_text(path: &Path) -> Result<String> {
    let bad = |message: String| Error::Config { path: path.display().to_string(), line: None, message };
    let bytes = read_at_most(path, MAX_TEXT as u64)?
        .ok_or_else(|| bad(format!("this file is too large: at most {MAX_TEXT} bytes are read")))?;
    String::from_utf8(bytes).map_err(|_| bad("this is not a text file".into()))
}

fn arm(folder: &Path, arm: &ArmFile) -> Result<Arm> {
    let recipe = |change: &Table| -> Result<Recipe> {
        let mut rest = change.clone();
        // Networks can be candidates, too.
        let path = folder.join(match rest.remove("model") {
            Some(toml::Value::String(path)) => path.into(),
            _ => arm.model.clone(),
        });
        let text = read_text(&path)?;
        // Parsed unchanged first, for messages with the right lines.
        let name = path.display().to_string();
        let base = Model::parse(&text, &name)?;
        let mut config = ModelConfig { path: format!("{name} with its changes"), ..base.config() };
        for changes in [&arm.set, &rest] {
            apply(&base, &mut config, changes).map_err(Error::Usage)?;
        }
        let model = Model::new(config)?;
        if let Some((key, _)) = model.train.judges() {
            return Err(Error::Usage(format!(
                "{} has {key} in [train], which looks at held-out images; the chosen recipes of a suite are trained on all \
                 images and tested on the test set, so none can have it",
                model.name
            )));
        }
        let change = if change.is_empty() { String::new() } else { written(change) };
        Ok(Recipe { change, fingerprint: fingerprint(&model), model })
    };
    let unchanged = [Table::new()];
    let changes = if arm.candidates.is_empty() { &unchanged[..] } else { &arm.candidates };
    let candidates = changes.iter().map(recipe).collect::<Result<Vec<_>>>()?;
    Ok(Arm { name: arm.name.clone(), candidates })
}

/// Changes the description of `model`: `dropout` is the rate of all dropout layers, `train` is merged into its recipe.
fn apply(model: &Model, config: &mut ModelConfig, changes: &Table) -> Result<(), String> {
    for (key, value) in changes {
        match (key.as_str(), value) {
            ("dropout", toml::Value::Float(_) | toml::Value::Integer(_)) => {
                if model.dropout_rates().next().is_none() {
                    return Err("dropout: the model has no dropout layer".into());
                }
                for (layer, _) in model.dropout_rates() {
                    config.layers[layer].keys.insert("rate".into(), value.clone());
                }
            }
            ("train", toml::Value::Table(changes)) => {
                let mut train = shortest_floats(&config.train);
                merge(&mut train, changes);
                let train: TrainConfig = from_table(train)
                    .map_err(|problem| format!("{} with its changes: [train]: {problem}", model.name))?;
                train.check()?;
                config.train = train;
            }
            _ => return Err(format!("{key} cannot be changed; `train.KEY` and `dropout` can")),
        }
    }
    Ok(())
}

/// Merges tables key by key; one that names its kind (`type`, `schedule`) replaces the old one.
fn merge(old: &mut Table, changes: &Table) {
    for (key, value) in changes {
        match (old.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if !new.contains_key("type") && !new.contains_key("schedule") =>
            {
                merge(old, new);
            }
            _ => {
                old.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A change on one line: `train.learning_rate.peak = 0.1`.
fn written(change: &Table) -> String {
    fn leaves(prefix: &str, table: &Table, found: &mut Vec<String>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(table) => leaves(&format!("{prefix}{key}."), table, found),
                value => found.push(format!("{prefix}{key} = {value}")),
            }
        }
    }
    let mut found = Vec::new();
    leaves("", change, &mut found);
    found.join(", ").replace("train.", "")
}

fn fingerprint(model: &Model) -> String {
    let mut file: Table = model.to_toml().parse().expect("a model can be read again");
    for not_its_meaning in ["name", "classes"] {
        file.remove(not_its_meaning);
    }
    hex(&Sha256::digest(file.to_string())[..8])
}
