//! Carries out what a suite still lacks: the choice among candidates first, then the tests.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::suite::{Arm, Criterion, Group, Phase, Recipe, Suite};
use super::table::{Origin, Row, Rows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::GpuOptions;
use crate::replica::Replica;
use crate::tensor::Shape;
use crate::train::{Ending, Run, RunState, Settings, Summary, TrainingData, Watch, rules};

/// How a suite is carried out.
#[derive(Debug)]
pub struct Options<'a> {
    /// Folder of the data set.
    pub data: &'a Path,
    /// Folder for the tables, the runs and the report.
    pub out: &'a Path,
    /// Where to train.
    pub device: &'a Device,
    /// How a GPU carries it out.
    pub gpu: GpuOptions,
    /// Seeds of an arm that are trained side by side.
    pub replicas: usize,
    /// Which part of how many this process does: (0, 1) is all.
    pub shard: (usize, usize),
    /// Phases to carry out.
    pub phases: &'a [Phase],
}

/// Seeds of one recipe, to be trained side by side.
#[derive(Debug)]
pub struct Job<'a> {
    /// Held-out images or the test set.
    pub phase: Phase,
    /// Group of the arm that it is run for.
    pub group: &'a Group,
    /// The arm.
    pub arm: &'a Arm,
    /// Its recipe.
    pub recipe: &'a Recipe,
    /// The seeds.
    pub seeds: Vec<u32>,
}

/// Someone who wants to see how a suite goes.
pub trait Watcher: Watch {
    /// Called with what is odd about the data set, the rows, or a run that goes on.
    fn warning(&mut self, warning: &str);
    /// Called with true before images are loaded, when nobody asks [`Watch::go_on`] and nothing can be lost, and with false
    /// behind it.
    fn loading(&mut self, is_loading: bool);
    /// Called before a job: how many of the phase's jobs of this process are done, and how many there are.
    fn job(&mut self, job: &Job<'_>, done: usize, of: usize);
    /// Called after a job with its rows.
    fn rows(&mut self, rows: &[Row]);
}

/// The images of a phase, for each size of input.
type Loaded = HashMap<Shape, TrainingData>;
/// Where the rows of each phase and size of input come from that count.
type Origins = HashMap<(Phase, Shape), Origin>;

/// Loads all images that the recipes of a phase need. In the select phase the test set's files are not opened.
fn load(
    suite: &Suite,
    phase: Phase,
    dir: &Path,
    origins: &mut Origins,
    watcher: &mut dyn Watcher,
) -> Result<Loaded> {
    watcher.loading(true);
    let hold_out = if phase == Phase::Select { suite.hold_out() } else { 0 };
    let mut loaded = HashMap::new();
    for (_, arm) in suite.arms().filter(|(_, arm)| phase == Phase::Test || arm.candidates.len() > 1) {
        for recipe in &arm.candidates {
            if let Entry::Vacant(place) = loaded.entry(recipe.model.input) {
                let data = TrainingData::load(dir, *place.key(), hold_out)?;
                data.warnings.iter().for_each(|warning| watcher.warning(warning));
                origins.insert((phase, *place.key()), Origin::of(&data, hold_out));
                place.insert(data);
            }
        }
    }
    watcher.loading(false);
    Ok(loaded)
}

/// Lets only those rows count that this build would make from these images, or that do not say where they come from.
fn sort_out(suite: &Suite, origins: &Origins, rows: &mut Rows) {
    let inputs = inputs(suite);
    rows.retain(|row| {
        let Some(input) = inputs.get(row.fingerprint.as_str()) else { return true };
        origins.get(&(row.phase, *input)).is_none_or(|origin| row.may_be_of(origin))
    });
}

/// The size of input of each recipe, by its fingerprint.
fn inputs(suite: &Suite) -> HashMap<&str, Shape> {
    let recipes = suite.arms().flat_map(|(_, arm)| &arm.candidates);
    recipes.map(|recipe| (recipe.fingerprint.as_str(), recipe.model.input)).collect()
}

/// Tells what is odd about the rows that are there.
fn tell(rows: &Rows, watcher: &mut dyn Watcher) {
    let foreign = rows.foreign();
    if foreign > 0 {
        watcher.warning(&format!(
            "{foreign} rows in this folder are of other data, another hold-out or other rules: they stay, and do not count"
        ));
    }
    let old = rows.iter().filter(|row| row.is_old()).count();
    if old > 0 {
        watcher.warning(&format!(
            "{old} rows in this folder were written by an older shadernet, without data, hold-out and rules: they are taken \
             to be of these"
        ));
    }
    if let [first, ..] = rows.conflicts() {
        let count = rows.conflicts().len();
        watcher.warning(&format!(
            "of {count} runs there are rows with different results, such as {first}: the first one counts"
        ));
    }
}

/// Prepares rows for a report without training: lets only those count that are of the images in `data`. Without `data`, all
/// must agree.
///
/// # Errors
/// Images that cannot be loaded, and rows that do not agree.
pub fn choose_rows(
    suite: &Suite,
    data: Option<&Path>,
    rows: &mut Rows,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let mut origins = Origins::new();
    if let Some(dir) = data {
        for phase in [Phase::Select, Phase::Test] {
            load(suite, phase, dir, &mut origins, watcher)?;
        }
    } else {
        let inputs = inputs(suite);
        for row in rows.iter() {
            let key = inputs.get(row.fingerprint.as_str()).map(|&input| (row.phase, input));
            let (Some(key), Some(origin)) = (key, row.origin()) else { continue };
            if *origins.entry(key).or_insert_with(|| origin.clone()) != origin {
                let message = "there are rows of different data, hold-outs or rules: --data says of which images the report \
                               is to be";
                return Err(Error::Usage(message.into()));
            }
        }
    }
    sort_out(suite, &origins, rows);
    tell(rows, watcher);
    Ok(())
}

/// Runs what is missing in `rows` and adds it there, run by run, until all is done or `watcher` stops it. Rows of other data,
/// another hold-out or other rules do not count, and stay.
///
/// # Errors
/// What training reports, except that a training that diverges is a result. In the test phase: a choice that cannot be
/// made yet, since another shard has not finished its part of the select phase.
pub fn carry_out(
    suite: &Suite,
    options: &Options<'_>,
    rows: &mut Rows,
    watcher: &mut dyn Watcher,
) -> Result<Ending> {
    let mut origins = Origins::new();
    if !options.phases.contains(&Phase::Select) {
        // The choice is made from rows of the same images.
        load(suite, Phase::Select, options.data, &mut origins, watcher)?;
    }
    for (number, &phase) in options.phases.iter().enumerate() {
        let loaded = load(suite, phase, options.data, &mut origins, watcher)?;
        sort_out(suite, &origins, rows);
        if number + 1 == options.phases.len() {
            tell(rows, watcher);
        }
        let jobs = jobs(suite, phase, rows, options)?;
        let mine: Vec<Job<'_>> = jobs
            .into_iter()
            .enumerate()
            .filter(|(index, _)| index % options.shard.1 == options.shard.0)
            .map(|(_, mut job)| {
                let is_done = |seed: &u32| rows.find(phase, &job.recipe.fingerprint, *seed).is_some();
                if job.seeds.iter().all(is_done) {
                    // A process that was killed when it had written the rows.
                    forget_state(&folder(&job, options));
                }
                job.seeds.retain(|&seed| rows.find(phase, &job.recipe.fingerprint, seed).is_none());
                job
            })
            .filter(|job| !job.seeds.is_empty())
            .collect();
        let of = mine.len();
        for (done, job) in mine.iter().enumerate() {
            if watcher.go_on().is_break() {
                return Ok(Ending::Stopped);
            }
            let input = job.recipe.model.input;
            watcher.job(job, done, of);
            let Some((made, folder)) =
                train(job, &loaded[&input], &origins[&(phase, input)], options, watcher)?
            else {
                return Ok(Ending::Stopped);
            };
            watcher.rows(&made);
            rows.add(made)?;
            forget_state(&folder);
        }
    }
    // Other shards may have got further.
    rows.read_others()?;
    sort_out(suite, &origins, rows);
    Ok(Ending::Done)
}

/// Removes the state of a run whose rows are written: the models stay; to go on with it nobody needs.
fn forget_state(folder: &Path) {
    let _ = std::fs::remove_file(folder.join(RunState::FILE));
}

/// Jobs of a phase in an order that depends on the suite alone: seed by seed, so that a suite that is stopped has something
/// to say about every arm. A run that several arms share is done once.
fn jobs<'a>(suite: &'a Suite, phase: Phase, rows: &Rows, options: &Options<'_>) -> Result<Vec<Job<'a>>> {
    let mut wanted: Vec<(&Group, &Arm, &Recipe, Vec<u32>)> = Vec::new();
    let mut shared = BTreeSet::new();
    for (group, arm) in suite.arms() {
        let recipes: Vec<&Recipe> = match phase {
            Phase::Select if arm.candidates.len() == 1 => continue,
            Phase::Select => arm.candidates.iter().collect(),
            Phase::Test => vec![chosen(group, arm, rows).ok_or_else(|| {
                Error::Usage(format!(
                    "group {:?}, arm {:?}: its recipe is not chosen yet; finish `--phase select` on all shards first",
                    group.name, arm.name
                ))
            })?],
        };
        for recipe in recipes {
            let seeds = if phase == Phase::Select { group.select.range() } else { group.test.range() };
            let new = seeds.filter(|&seed| shared.insert((&recipe.fingerprint, seed)));
            wanted.push((group, arm, recipe, new.collect()));
        }
    }
    let together = options.replicas.max(1);
    let longest = wanted.iter().map(|(.., seeds)| seeds.len()).max().unwrap_or(0);
    let mut jobs = Vec::new();
    for round in 0..longest.div_ceil(together) {
        for (group, arm, recipe, seeds) in &wanted {
            if let Some(seeds) = seeds.chunks(together).nth(round) {
                jobs.push(Job { phase, group, arm, recipe, seeds: seeds.to_vec() });
            }
        }
    }
    Ok(jobs)
}

/// The recipe of an arm that is to be tested: its only one, or the one with the best mean over the seeds on held-out images
/// by the group's criterion. `None` while runs are missing.
pub fn chosen<'a>(group: &Group, arm: &'a Arm, rows: &Rows) -> Option<&'a Recipe> {
    if let [only] = &arm.candidates[..] {
        return Some(only);
    }
    let mut best: Option<((f64, f64), &Recipe)> = None;
    for recipe in &arm.candidates {
        let (mut accuracy, mut loss) = (0.0, 0.0);
        for seed in group.select.range() {
            let row = rows.find(Phase::Select, &recipe.fingerprint, seed)?;
            accuracy += row.final_accuracy;
            loss += row.final_loss;
        }
        // Accuracies are multiples of one image: sums in another order must not decide.
        let accuracy = (accuracy * 1e6).round();
        let score = match group.select.by {
            Criterion::Accuracy => (accuracy, -loss),
            Criterion::Loss => (-loss, accuracy),
        };
        if best.is_none_or(|(other, _)| score > other) {
            best = Some((score, recipe));
        }
    }
    best.map(|(_, recipe)| recipe)
}

/// Trains the seeds of a job, going on where an earlier process was stopped: its rows and its folder; `None` if `watcher`
/// stops it.
fn train(
    job: &Job<'_>,
    data: &TrainingData,
    origin: &Origin,
    options: &Options<'_>,
    watcher: &mut dyn Watcher,
) -> Result<Option<(Vec<Row>, PathBuf)>> {
    let model = &job.recipe.model;
    let settings = Settings {
        replicas: Replica::of_seeds(model, &model.train, job.seeds.iter().copied()),
        shuffle: true,
        data: std::path::absolute(options.data).unwrap_or_else(|_| options.data.to_owned()),
        hold_out: origin.hold_out,
    };
    let (folder, state) = place(&folder(job, options), &settings, data, watcher)?;
    let trained = match &state {
        Some(state) => Run::resume(state, data, options.device, options.gpu),
        None => Run::start(model, &settings, data, options.device, options.gpu, None, Some(&folder)),
    }
    .and_then(|mut run| {
        if let (Some(state), [.., before, here]) = (&state, run.devices()) {
            watcher.warning(&format!(
                "{}: up to step {} this run was computed on {}, now on {}, which may round in another way",
                state.folder().display(),
                here.from_step,
                before.device,
                here.device
            ));
        }
        if run.train(None, &mut Forward(watcher))? == Ending::Stopped {
            return Ok(None);
        }
        let summary = run.finish()?;
        let of = |seed: u32| run.rows().iter().filter(move |row| row.seed == seed).copied();
        let curves: Vec<Vec<_>> = job.seeds.iter().map(|&seed| of(seed).collect()).collect();
        Ok(Some((summary, curves)))
    });
    let rows: Vec<Row> = match trained {
        Ok(None) => return Ok(None),
        Ok(Some((summary, curves))) => {
            let curves = job.seeds.iter().zip(&curves);
            curves.map(|(&seed, curve)| row(job, origin, seed, curve, &summary)).collect()
        }
        // Of every net: some beside others that did not are in the summary.
        Err(Error::Diverged { .. }) => {
            let device = options.device.name();
            job.seeds.iter().map(|&seed| diverged(job, origin, seed, device.clone())).collect()
        }
        Err(error) => return Err(error),
    };
    Ok(Some((rows, folder)))
}

/// The folder for a run, with the state of the same run that was stopped there, if there is one. What is there of another run
/// stays, and the folder gets a number.
fn place(
    folder: &Path,
    settings: &Settings,
    data: &TrainingData,
    watcher: &mut dyn Watcher,
) -> Result<(PathBuf, Option<RunState>)> {
    let is_same = |state: &RunState| {
        // The data set may have another path by now: its content counts.
        let here = Settings { data: state.settings.data.clone(), ..settings.clone() };
        let same_rules = state.rules() == rules(data.train.channels);
        state.settings == here && same_rules && state.check_data(data).is_ok()
    };
    let mut number = 1;
    loop {
        let folder = match number {
            1 => folder.to_owned(),
            _ => PathBuf::from(format!("{}-{number}", folder.display())),
        };
        match RunState::load(&folder) {
            Ok(state) if is_same(&state) => {
                if state.is_old {
                    watcher.warning(&format!(
                        "{}: the state of this run has no checksum of the whole file, since an older shadernet wrote it",
                        folder.display()
                    ));
                }
                return Ok((folder, Some(state)));
            }
            Err(error @ Error::Busy { .. }) => return Err(error),
            // No state, or one of something else.
            Ok(_) | Err(Error::Usage(_)) => {}
            Err(error) => watcher.warning(&format!("{error}; the run is begun anew in another folder")),
        }
        match Run::check_out(&folder) {
            Ok(()) => return Ok((folder, None)),
            Err(Error::Usage(_)) => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn folder(job: &Job<'_>, options: &Options<'_>) -> PathBuf {
    let seeds = match job.seeds[..] {
        [only] => format!("seed{only}"),
        [first, .., last] => format!("seeds{first}-{last}"),
        [] => String::new(),
    };
    let name = format!("{}-{}-{}-{seeds}", job.group.name, job.phase.name(), job.recipe.fingerprint);
    options.out.join("runs").join(name)
}

fn row(job: &Job<'_>, origin: &Origin, seed: u32, curve: &[crate::train::Row], summary: &Summary) -> Row {
    let last = curve.last().expect("a run has an epoch");
    let best =
        curve.iter().fold(last, |best, row| if row.test_accuracy > best.test_accuracy { row } else { best });
    let first_best = curve.iter().find(|row| row.test_accuracy == best.test_accuracy).unwrap_or(best);
    let hash = match summary.replicas.iter().find(|replica| replica.net.seed == seed) {
        Some(replica) => replica.weights_sha256.clone(),
        None => summary.weights_sha256.clone(),
    };
    let Some(weights_sha256) = hash else { return diverged(job, origin, seed, summary.device.clone()) };
    let accuracies: Vec<String> = curve.iter().map(|row| row.test_accuracy.to_string()).collect();
    Row {
        epochs: last.epoch,
        final_accuracy: last.test_accuracy,
        final_loss: last.test_loss,
        best_accuracy: best.test_accuracy,
        best_epoch: first_best.epoch,
        train_accuracy: last.train_accuracy,
        seconds: (summary.seconds / job.seeds.len() as f64 * 1e3).round() / 1e3,
        device: match &summary.devices[..] {
            [] => summary.device.clone(),
            several => several.iter().map(|span| span.device.as_str()).collect::<Vec<_>>().join(", then "),
        },
        weights_sha256,
        accuracies: accuracies.join(" "),
        ..blank(job, origin, seed)
    }
}

/// A run whose weights did not stay finite: no image is right.
fn diverged(job: &Job<'_>, origin: &Origin, seed: u32, device: String) -> Row {
    Row { device, final_loss: f64::INFINITY, ..blank(job, origin, seed) }
}

fn blank(job: &Job<'_>, origin: &Origin, seed: u32) -> Row {
    Row {
        phase: job.phase,
        group: job.group.name.clone(),
        arm: job.arm.name.clone(),
        change: job.recipe.change.clone(),
        seed,
        parameters: job.recipe.model.parameter_count(),
        epochs: 0,
        final_accuracy: 0.0,
        final_loss: 0.0,
        best_accuracy: 0.0,
        best_epoch: 0,
        train_accuracy: 0.0,
        seconds: 0.0,
        device: String::new(),
        weights_sha256: String::new(),
        version: env!("CARGO_PKG_VERSION").into(),
        fingerprint: job.recipe.fingerprint.clone(),
        accuracies: String::new(),
        data_sha256: Some(origin.data_sha256.clone()),
        hold_out: Some(origin.hold_out),
        rules: Some(origin.rules),
    }
}

/// A suite's watcher as a run's.
struct Forward<'a>(&'a mut dyn Watcher);

impl Watch for Forward<'_> {
    fn go_on(&mut self) -> ControlFlow<()> {
        self.0.go_on()
    }

    fn steps(&mut self, epoch: usize, done: usize, of: usize, sums: &[crate::engine::Metrics]) {
        self.0.steps(epoch, done, of, sums);
    }

    fn epoch(&mut self, rows: &[crate::train::Row]) {
        self.0.epoch(rows);
    }
}
