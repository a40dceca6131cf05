//! Runs what a suite still lacks: the choice among candidates first, then the tests.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::suite::{Arm, Group, Phase, Recipe, Suite};
use super::table::{Origin, Row, Rows};
use crate::device::Device;
use crate::error::{Error, Remedy, Result};
use crate::replica::Replica;
use crate::tensor::Shape;
use crate::train::{Ending, Run, RunState, Summary, TrainingData, Watch, rules};

/// How a suite is run.
#[derive(Debug)]
pub struct Options<'a> {
    /// Folder of the dataset.
    pub data: &'a Path,
    /// Folder for the tables, the runs and the report.
    pub out: &'a Path,
    /// Where to train.
    pub device: &'a Device,
    /// Seeds of an arm that are trained side by side.
    pub replicas: usize,
    /// Which part this process does, of how many: (0, 1) is all.
    pub shard: (usize, usize),
    /// Phases to run.
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

/// Observes the progress of a suite.
pub trait Watcher: Watch {
    /// Called with warnings about the dataset, the rows, or a resumed run.
    fn warning(&mut self, warning: &str);
    /// Called with true before images are loaded, when [`Watch::go_on`] is not asked and nothing can be lost, and
    /// with false afterwards.
    fn loading(&mut self, is_loading: bool);
    /// Called before a job: how many of this process's jobs in the phase are done, and how many there are.
    fn job(&mut self, job: &Job<'_>, done: usize, of: usize);
    /// Called after a job with its rows.
    fn rows(&mut self, rows: &[Row]);
}

/// The images of a phase, by input size.
type Loaded = HashMap<Shape, Arc<TrainingData>>;
/// The origins of the rows that count, by phase and input size.
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
                let data = match hold_out {
                    0 => TrainingData::load(dir, *place.key())?,
                    count => TrainingData::load_held_out(dir, *place.key(), count)?,
                };
                data.warnings.iter().for_each(|warning| watcher.warning(warning));
                origins.insert((phase, *place.key()), Origin::of(&data, hold_out));
                place.insert(Arc::new(data));
            }
        }
    }
    watcher.loading(false);
    Ok(loaded)
}

/// Excludes rows that this build would not make from these images, except those that don't say where they come from.
fn sort_out(suite: &Suite, origins: &Origins, rows: &mut Rows) {
    let inputs = inputs(suite);
    rows.retain(|row| {
        let Some(input) = inputs.get(row.fingerprint.as_str()) else { return true };
        origins.get(&(row.phase, *input)).is_none_or(|origin| row.may_be_of(origin))
    });
}

/// Each recipe's input size, by fingerprint.
fn inputs(suite: &Suite) -> HashMap<&str, Shape> {
    let recipes = suite.arms().flat_map(|(_, arm)| &arm.candidates);
    recipes.map(|recipe| (recipe.fingerprint.as_str(), recipe.model.input)).collect()
}

/// Warns about suspicious rows.
fn tell(rows: &Rows, watcher: &mut dyn Watcher) {
    let foreign = rows.foreign();
    if foreign > 0 {
        watcher.warning(&format!(
            "{foreign} rows in this folder are from other data, another hold-out or other rules; they are kept, but \
             not counted"
        ));
    }
    let old = rows.iter().filter(|row| row.is_old()).count();
    if old > 0 {
        watcher.warning(&format!(
            "{old} rows in this folder were written by an older shadernet, without data, hold-out and rules; they are \
             assumed to be from the present ones"
        ));
    }
    if let [first, ..] = rows.conflicts() {
        let count = rows.conflicts().len();
        watcher.warning(&format!(
            "different results are recorded for {count} run(s), such as {first}; the first row counts"
        ));
    }
}

/// Prepares rows for a report without training: excludes those of images other than `data`. Without it, all must
/// agree.
///
/// # Errors
/// Images that cannot be loaded, and rows that disagree.
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
                let message = "the rows are from different data, hold-outs or rules";
                return Err(Error::Usage(message.into()).with(Remedy::ImagesOfReport));
            }
        }
    }
    sort_out(suite, &origins, rows);
    tell(rows, watcher);
    Ok(())
}

/// Runs what is missing in `rows` and adds it there, run by run, until all is done or `watcher` stops it. Rows of
/// other data, another hold-out or other rules don't count, but are kept.
///
/// # Errors
/// Any training error, except divergence, which is a result. In the test phase: a choice that cannot be made yet,
/// because another shard has not finished its part of the select phase.
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
                    // The process was killed after writing the rows.
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
    // Other shards may have progressed.
    rows.read_others()?;
    sort_out(suite, &origins, rows);
    Ok(Ending::Done)
}

/// Removes the state of a run whose rows are written: the models stay; resuming is no longer needed.
fn forget_state(folder: &Path) {
    let _ = std::fs::remove_file(folder.join(RunState::FILE));
}

/// Jobs of a phase in an order that depends on the suite alone: seed by seed, so a stopped suite has results for
/// every arm. A run shared by several arms is done once.
fn jobs<'a>(suite: &'a Suite, phase: Phase, rows: &Rows, options: &Options<'_>) -> Result<Vec<Job<'a>>> {
    let mut wanted: Vec<(&Group, &Arm, &Recipe, Vec<u32>)> = Vec::new();
    let mut shared = BTreeSet::new();
    for (group, arm) in suite.arms() {
        let recipes: Vec<&Recipe> = match phase {
            Phase::Select if arm.candidates.len() == 1 => continue,
            Phase::Select => arm.candidates.iter().collect(),
            Phase::Test => vec![chosen(group, arm, rows).ok_or_else(|| {
                let message =
                    format!("group {:?}, arm {:?}: its recipe has not been chosen yet", group.name, arm.name);
                Error::Usage(message).with(Remedy::FinishSelection)
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

/// The recipe of an arm to be tested: its only one, or the best by the group's criterion, averaged over the seeds on
/// held-out images. `None` while runs are missing.
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
        // Accuracies are multiples of one image: the order of summation must not decide.
        let accuracy = (accuracy * 1e6).round();
        let score = group.select.by.score(accuracy, loss);
        if best.is_none_or(|(other, _)| score > other) {
            best = Some((score, recipe));
        }
    }
    best.map(|(_, recipe)| recipe)
}

/// Trains the seeds of a job, resuming where an earlier process was stopped, and returns its rows and its folder;
/// `None` if `watcher` stops it.
fn train(
    job: &Job<'_>,
    data: &Arc<TrainingData>,
    origin: &Origin,
    options: &Options<'_>,
    watcher: &mut dyn Watcher,
) -> Result<Option<(Vec<Row>, PathBuf)>> {
    let model = &job.recipe.model;
    let replicas = Replica::of_seeds(model, job.seeds.iter().copied());
    let (folder, state) = place(&folder(job, options), &replicas, data, watcher)?;
    let is_resumed = state.is_some();
    let trained = match state {
        Some(state) => state.resume(Arc::clone(data), options.device),
        None => {
            let run = Run::builder(model.clone(), Arc::clone(data)).replicas(replicas);
            run.device(options.device.clone()).folder(&folder).start()
        }
    }
    .and_then(|mut run| {
        if let (true, [.., before, here]) = (is_resumed, run.devices()) {
            watcher.warning(&format!(
                "{}: up to step {} this run was computed on {}, now on {}, which may round differently",
                run.folder().display(),
                here.from_step,
                before.device,
                here.device
            ));
        }
        if run.train(&mut Forward(watcher))? == Ending::Stopped {
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
        // All nets diverged: if only some do, they are in the summary.
        Err(Error::Diverged { .. }) => {
            let device = options.device.name();
            job.seeds.iter().map(|&seed| diverged(job, origin, seed, device.clone())).collect()
        }
        Err(error) => return Err(error),
    };
    Ok(Some((rows, folder)))
}

/// The folder for a run, with the state of the same run if it was stopped there. The contents of another run are
/// kept, and this folder gets a number.
fn place(
    folder: &Path,
    replicas: &[Replica],
    data: &TrainingData,
    watcher: &mut dyn Watcher,
) -> Result<(PathBuf, Option<RunState>)> {
    let is_same = |state: &RunState| {
        // The dataset may have moved: its content counts.
        state.replicas() == replicas
            && state.shuffles()
            && state.held_out() == data.held_out
            && state.check_data(data).is_ok()
            && state.rules() == rules(data.train.channels)
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
            // No state, or one from something else.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), Error::Usage(_)) => {}
            Err(error) => {
                watcher.warning(&format!("{error}; the run is started from scratch in another folder"));
            }
        }
        match Run::check_folder(&folder) {
            Ok(()) => return Ok((folder, None)),
            Err(error) if matches!(error.kind(), Error::Usage(_)) => number += 1,
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

fn row(
    job: &Job<'_>,
    origin: &Origin,
    seed: u32,
    curve: &[crate::train::EpochMetrics],
    summary: &Summary,
) -> Row {
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

/// A run whose weights became non-finite: no answer is correct.
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

/// Adapts a suite's watcher to a run's.
struct Forward<'a>(&'a mut dyn Watcher);

impl Watch for Forward<'_> {
    fn go_on(&mut self) -> ControlFlow<()> {
        self.0.go_on()
    }

    fn steps(&mut self, epoch: usize, done: usize, of: usize, sums: &[crate::engine::Metrics]) {
        self.0.steps(epoch, done, of, sums);
    }

    fn epoch(&mut self, rows: &[crate::train::EpochMetrics]) -> ControlFlow<()> {
        self.0.epoch(rows)
    }
}
