//! Carries out what a suite still lacks: the choice among candidates first, then the tests.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::suite::{Arm, Criterion, Group, Phase, Recipe, Suite};
use super::table::{Row, Rows};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu::GpuOptions;
use crate::replica::Replica;
use crate::tensor::Shape;
use crate::train::{Run, RunState, Settings, Summary, TrainingData, Watch};

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
    /// Called with what is odd about the data set.
    fn warning(&mut self, warning: &str);
    /// Called before a job: how many of the phase's jobs of this process are done, and how many there are.
    fn job(&mut self, job: &Job<'_>, done: usize, of: usize);
    /// Called after a job with its rows.
    fn rows(&mut self, rows: &[Row]);
}

/// Runs what is missing in `rows` and adds it there, run by run.
///
/// # Errors
/// What training reports, except that a training that diverges is a result. In the test phase: a choice that cannot be
/// made yet, since another shard has not finished its part of the select phase.
pub fn carry_out(
    suite: &Suite,
    options: &Options<'_>,
    rows: &mut Rows,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    for &phase in options.phases {
        let jobs = jobs(suite, phase, rows, options)?;
        let mine: Vec<Job<'_>> = jobs
            .into_iter()
            .enumerate()
            .filter(|(index, _)| index % options.shard.1 == options.shard.0)
            .map(|(_, mut job)| {
                job.seeds.retain(|&seed| rows.find(phase, &job.recipe.fingerprint, seed).is_none());
                job
            })
            .filter(|job| !job.seeds.is_empty())
            .collect();
        if mine.is_empty() {
            continue;
        }
        // In the select phase the test set's files are not opened.
        let hold_out = if phase == Phase::Select { suite.hold_out() } else { 0 };
        let mut loaded: HashMap<Shape, TrainingData> = HashMap::new();
        let of = mine.len();
        for (done, job) in mine.iter().enumerate() {
            let data = match loaded.entry(job.recipe.model.input) {
                Entry::Occupied(data) => data.into_mut(),
                Entry::Vacant(place) => {
                    let data = TrainingData::load(options.data, *place.key(), hold_out)?;
                    data.warnings.iter().for_each(|warning| watcher.warning(warning));
                    place.insert(data)
                }
            };
            watcher.job(job, done, of);
            let made = train(job, hold_out, data, options, watcher)?;
            watcher.rows(&made);
            rows.add(made)?;
        }
    }
    Ok(())
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

/// Trains the seeds of a job, going on where an earlier process was stopped.
fn train(
    job: &Job<'_>,
    hold_out: usize,
    data: &TrainingData,
    options: &Options<'_>,
    watcher: &mut dyn Watcher,
) -> Result<Vec<Row>> {
    let model = &job.recipe.model;
    let settings = Settings {
        replicas: Replica::of_seeds(model, &model.train, job.seeds.iter().copied()),
        shuffle: true,
        data: std::path::absolute(options.data).unwrap_or_else(|_| options.data.to_owned()),
        hold_out,
    };
    let folder = folder(job, options);
    let state = RunState::load(&folder).ok().filter(|state| state.settings == settings);
    let trained = match &state {
        Some(state) => Run::resume(state, data, options.device, options.gpu, &folder),
        None => {
            // What a process that was killed before its first epoch left behind.
            let _ = std::fs::remove_dir_all(&folder);
            Run::start(model, &settings, data, options.device, options.gpu, None, Some(&folder))
        }
    }
    .and_then(|mut run| {
        run.train(None, &mut Forward(watcher))?;
        let summary = run.finish()?;
        let of = |seed: u32| run.rows().iter().filter(move |row| row.seed == seed).copied();
        let curves: Vec<Vec<_>> = job.seeds.iter().map(|&seed| of(seed).collect()).collect();
        Ok((summary, curves))
    });
    match trained {
        Ok((summary, curves)) => {
            // The models stay; to go on with a finished run nobody needs.
            let _ = std::fs::remove_file(folder.join(RunState::FILE));
            let curves = job.seeds.iter().zip(&curves);
            Ok(curves.map(|(&seed, curve)| row(job, seed, curve, &summary)).collect())
        }
        // Of every net: some beside others that did not are in the summary.
        Err(Error::Diverged { .. }) => {
            Ok(job.seeds.iter().map(|&seed| diverged(job, seed, options.device.name())).collect())
        }
        Err(error) => Err(error),
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

fn row(job: &Job<'_>, seed: u32, curve: &[crate::train::Row], summary: &Summary) -> Row {
    let last = curve.last().expect("a run has an epoch");
    let best =
        curve.iter().fold(last, |best, row| if row.test_accuracy > best.test_accuracy { row } else { best });
    let first_best = curve.iter().find(|row| row.test_accuracy == best.test_accuracy).unwrap_or(best);
    let hash = match summary.replicas.iter().find(|replica| replica.net.seed == seed) {
        Some(replica) => replica.weights_sha256.clone(),
        None => summary.weights_sha256.clone(),
    };
    let Some(weights_sha256) = hash else { return diverged(job, seed, summary.device.clone()) };
    let accuracies: Vec<String> = curve.iter().map(|row| row.test_accuracy.to_string()).collect();
    Row {
        epochs: last.epoch,
        final_accuracy: last.test_accuracy,
        final_loss: last.test_loss,
        best_accuracy: best.test_accuracy,
        best_epoch: first_best.epoch,
        train_accuracy: last.train_accuracy,
        seconds: (summary.seconds / job.seeds.len() as f64 * 1e3).round() / 1e3,
        device: summary.device.clone(),
        weights_sha256,
        accuracies: accuracies.join(" "),
        ..blank(job, seed)
    }
}

/// A run whose weights did not stay finite: no image is right.
fn diverged(job: &Job<'_>, seed: u32, device: String) -> Row {
    Row { device, final_loss: f64::INFINITY, ..blank(job, seed) }
}

fn blank(job: &Job<'_>, seed: u32) -> Row {
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
    }
}

/// A suite's watcher as a run's.
struct Forward<'a>(&'a mut dyn Watcher);

impl Watch for Forward<'_> {
    fn steps(&mut self, epoch: usize, done: usize, of: usize, sums: &[crate::engine::Metrics]) {
        self.0.steps(epoch, done, of, sums);
    }

    fn epoch(&mut self, rows: &[crate::train::Row]) {
        self.0.epoch(rows);
    }
}
