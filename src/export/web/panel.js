'use strict';
// The part of the page that retrains the network: two buttons, a curve, and the progress.

/** Target duration of a submission: short enough to keep the page responsive. */
const SUBMISSION_MS = 100;
/** Losses at the upper and the lower edge of the curve. */
const [MOST_LOSS, LEAST_LOSS] = [4, 0.01];

const recipe = /** @type {Recipe} */ (model.training);

/** @type {Training | null} */
let training = null;
/** @typedef {'off' | 'running' | 'paused' | 'done'} Phase */

/** @type {Phase} */
let phase = 'off';
/** Whether `phase` is `wanted` now: buttons change it during waits. @param {Phase} wanted */
const is = (wanted) => phase === wanted;
/** @type {{ step: number, loss: number }[]} */
let losses = [];
/** Test accuracy after each epoch, from 0 to 1. */
let tested = /** @type {number[]} */ ([]);

/** @param {Phase} next */
function enter(next) {
  phase = next;
  document.body.dataset.training = phase;
  element('train').textContent = { off: 'Train from scratch', running: 'Pause', paused: 'Resume', done: 'Train again' }[phase];
  element('restore').ariaDisabled = String(phase === 'off');
  const original = `${model.test_accuracy.toFixed(2)} % correct on its test images`;
  element('model-line').textContent =
    `${model.name}: ${model.parameters.toLocaleString('en')} parameters, ${phase === 'off' ? original : 'trained in this page'}`;
}

/** @param {string} [what] */
function progress(what) {
  const { epochs, steps_per_epoch: each, test_images: images } = recipe;
  const epoch = Math.min(Math.floor((training?.step ?? 0) / each) + 1, epochs);
  const loss = losses.length > 0 ? `, loss ${losses[losses.length - 1].loss.toFixed(3)}` : '';
  const test = tested.length > 0 ? `; ${percentOf(tested[tested.length - 1])} of ${images.toLocaleString('en')} test images correct` : '';
  element('progress').textContent = what ?? `Epoch ${epoch} of ${epochs}${loss}${test}.`;
}

/** Draws the losses against the steps, on a logarithmic scale. */
function drawCurve() {
  const length = recipe.epochs * recipe.steps_per_epoch;
  const y = (/** @type {number} */ loss) => {
    const part = Math.log(MOST_LOSS / Math.min(Math.max(loss, LEAST_LOSS), MOST_LOSS)) / Math.log(MOST_LOSS / LEAST_LOSS);
    return (5 + 150 * part).toFixed(1);
  };
  const lines = [1, 0.1].map(
    (loss) => `<line x1="40" x2="600" y1="${y(loss)}" y2="${y(loss)}"/><text x="34" y="${y(loss)}">${loss}</text>`,
  );
  const points = losses.map(({ step, loss }) => `${(40 + (560 * step) / length).toFixed(1)},${y(loss)}`);
  element('curve').innerHTML = `<text x="34" y="9">loss</text>${lines.join('')}<polyline points="${points.join(' ')}"/>`;
  const last = losses[losses.length - 1];
  element('curve').ariaLabel = `Loss: ${last ? `${last.loss.toFixed(3)} after ${last.step} of ${length} steps` : 'nothing yet'}`;
}

/** The current run, or the last one. */
let running = Promise.resolve();
let clicks = 0;
/** True if the next run begins with random weights, and the current one is obsolete. */
let fresh = true;

/**
 * Trains until the end, a pause, or a reset.
 * @param {number} click
 */
async function run(click) {
  const each = recipe.steps_per_epoch;
  let count = 1;
  while (click === clicks && is('running') && training && training.step < training.length) {
    const first = training.step % each;
    const steps = Math.min(count, each - first, recipe.ring);
    const begin = performance.now();
    const sums = await training.train(steps);
    count = Math.max(1, Math.round((steps * SUBMISSION_MS) / (performance.now() - begin)));
    const right = training.step % each === 0 ? (await training.test()).right : null;
    if (fresh) {
      return;
    }
    // An epoch's last batch may be smaller.
    const images = Math.min((first + steps) * recipe.batch, recipe.images) - first * recipe.batch;
    losses.push({ step: training.step, loss: sums.loss / images });
    if (right !== null) {
      tested.push(right / recipe.test_images);
    }
    drawCurve();
    progress();
    await update();
  }
  if (training && training.step === training.length) {
    enter('done');
  }
}

/** Starts, pauses or resumes. */
async function train() {
  const device = program;
  if (is('running') || !device) {
    if (device) {
      enter('paused');
    } else {
      progress('Training needs WebGPU, which does not work here.');
    }
    return;
  }
  fresh ||= !is('paused');
  enter('running');
  clicks += 1;
  const click = clicks;
  // A run that was just paused or reset may still have steps on the device.
  await running;
  if (click === clicks && is('running')) {
    running = runOn(device, click);
  }
}

/**
 * @param {Program} device
 * @param {number} click
 */
async function runOn(device, click) {
  try {
    if (!training) {
      progress('Compiling the kernels …');
      training = await Training.open(device, model, recipe);
      if (click !== clicks || !is('running')) {
        return;
      }
    }
    if (fresh) {
      training.begin();
      [losses, tested, fresh] = [[], [], false];
    }
    await run(click);
  } catch (error) {
    training = null;
    enter('off');
    progress(error instanceof NoWebGpu ? `${error.message}.` : 'The graphics device was lost, so training has stopped.');
  }
}

/** The weights that came with the page. */
function restore() {
  if (is('off')) {
    return;
  }
  enter('off');
  for (const [name, values] of Object.entries(model.buffers)) {
    program?.write(name, values);
  }
  [losses, tested, fresh] = [[], [], true];
  drawCurve();
  progress('');
  update();
}

element('recipe').textContent =
  `This page contains ${recipe.images.toLocaleString('en')} images. The network starts with random weights and learns from ` +
  `them for ${recipe.epochs} epochs, with the same kernels that shadernet runs natively. You can draw meanwhile.`;
element('train').addEventListener('click', train);
element('restore').addEventListener('click', restore);
drawCurve();
enter('off');
