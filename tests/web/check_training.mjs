// Trains in the pages that run.sh exported with --train-here. README.md has the list.
// A second argument selects the cases with this text in their name.

import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LOGIT_TOLERANCE, answers, engine, finish, folder, images, logitsOf, ready, test, text, withPage } from './harness.mjs';

const NOISE = join(folder, 'noise/t10k-images-idx3-ubyte');
const MAX_BYTES = 2_000_000;
/** After a training, whose steps amplify differences. */
const TRAINED_TOLERANCE = 1e-3;

const button = (page, name) => page.getByRole('button', { name });
const phase = (page, wanted) =>
  page.waitForFunction((wanted) => document.body.dataset.training === wanted, wanted, { timeout: 120_000 });
/** Largest difference of the logits of test images from those of the CPU engine. */
const difference = async (page) => {
  const found = await page.evaluate(async (images) => {
    const logits = [];
    for (const image of images) {
      logits.push([...(await program.run(Uint8Array.from(image)))]);
    }
    return logits;
  }, images(NOISE));
  const wanted = logitsOf(join(folder, 'all_layers.logits'));
  return Math.max(...found.flatMap((row, i) => row.map((logit, j) => Math.abs(logit - wanted[i][j]))));
};

await test('the page trains the network that `shadernet train` trains', () =>
  withPage(
    async (page) => {
      await ready(page);
      assert.equal(await engine(page), 'webgpu');
      await button(page, 'Train from scratch').click();
      await phase(page, 'done');
      const trained = await difference(page);
      assert.ok(trained <= TRAINED_TOLERANCE, `a logit differs by ${trained}`);
      // Losses of each epoch, and the test after it.
      const [, ...rows] = readFileSync(join(folder, 'all_layers.csv'), 'utf8').trim().split('\n').map((row) => row.split(','));
      const { each, losses, tested } = await page.evaluate(() => ({ each: recipe.steps_per_epoch, losses, tested }));
      let most = 0;
      rows.forEach(([, , , trainLoss, , , accuracy], epoch) => {
        // The noise has only whole batches: the mean over an epoch is that over its submissions, weighted by their steps.
        let [sum, before] = [0, epoch * each];
        for (const { step, loss } of losses.filter(({ step }) => step > epoch * each && step <= (epoch + 1) * each)) {
          sum += (step - before) * loss;
          before = step;
        }
        most = Math.max(most, Math.abs(sum / each - Number(trainLoss)));
        assert.ok(Math.abs(100 * tested[epoch] - Number(accuracy)) < 1e-6, `epoch ${epoch + 1}: ${tested[epoch]}`);
      });
      assert.ok(rows.length === 2 && most < TRAINED_TOLERANCE, `the loss of an epoch differs by ${most}`);
      assert.match(await text(page, 'progress'), /^Epoch 2 of 2, loss \d\.\d{3}; \d+\.\d % of 100 test images correct\.$/);
      // That it was trained at all: the initial weights give different answers.
      await page.evaluate(() => training.begin());
      const first = await difference(page);
      assert.ok(first > 0.01, `random weights differ by ${first}`);
      await button(page, 'Back to the trained network').click();
      const back = await difference(page);
      assert.ok(back <= LOGIT_TOLERANCE, `back again, a logit differs by ${back}`);
      return `a logit differs by at most ${trained.toExponential(1)}, the loss of an epoch by ${most.toExponential(1)}`;
    },
    { file: 'all_layers_here' },
  ));

await test('the seed network learns, and can be paused, continued and left', () =>
  withPage(
    async (page) => {
      await ready(page);
      await button(page, 'Example: a drawn 3').click();
      await answers(page, '3');
      const model = await text(page, 'model-line');
      await button(page, 'Train from scratch').click();
      await page.waitForFunction(() => losses.length >= 3, null, { timeout: 120_000 });
      await button(page, 'Pause').click();
      await phase(page, 'paused');
      const step = () => page.evaluate(() => running.then(() => training.step));
      const paused = await step();
      await page.waitForTimeout(500);
      assert.equal(await step(), paused, 'a pause takes no steps');
      await button(page, 'Resume').click();
      await page.waitForFunction((paused) => training.step >= paused + 12, paused, { timeout: 120_000 });
      const [first, last] = await page.evaluate(() => [losses[0].loss, losses[losses.length - 1].loss]);
      assert.ok(Math.abs(first - Math.log(10)) < 0.3 && last < first - 0.1, `the loss goes from ${first} to ${last}`);
      assert.match(await page.locator('#curve').getAttribute('aria-label'), /^Loss: \d\.\d{3} after \d+ of 2375 steps$/);
      assert.match(await text(page, 'model-line'), /trained in this page$/);
      // Back, while steps are in flight.
      await button(page, 'Back to the trained network').click();
      await answers(page, '3');
      assert.equal(await text(page, 'model-line'), model);
      // And immediately again from scratch.
      await button(page, 'Train from scratch').click();
      await page.waitForFunction(() => losses.length >= 1 && losses[0].step <= 2, null, { timeout: 120_000 });
      await button(page, 'Back to the trained network').click();
      await answers(page, '3');
      await page.waitForFunction(() => parseFloat(document.getElementById('certainty').textContent) > 90);
      const { size } = statSync(join(folder, 'seed_here.html'));
      assert.ok(size <= MAX_BYTES, `${size} bytes`);
      return `${size} bytes; loss ${first.toFixed(2)} to ${last.toFixed(2)} in ${await page.evaluate(() => recipe.images)} images`;
    },
    { file: 'seed_here' },
  ));

await test('without WebGPU there is no training, and it is said', () =>
  withPage(
    async (page) => {
      await ready(page);
      await button(page, 'Train from scratch').click();
      assert.equal(await text(page, 'progress'), 'Training needs WebGPU, which does not work here.');
      await button(page, 'Example: a drawn 3').click();
      await answers(page, '3');
    },
    { file: 'seed_here', before: "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined })" },
  ));

await test('a device that is lost takes the training with it, and plain JavaScript goes on', () =>
  withPage(
    async (page) => {
      await ready(page);
      await button(page, 'Train from scratch').click();
      await page.waitForFunction(() => losses.length >= 1, null, { timeout: 120_000 });
      await page.evaluate(() => program.device.destroy());
      await phase(page, 'off');
      assert.match(await text(page, 'progress'), /^The graphics device was lost/);
      assert.equal(await engine(page), 'javascript');
      await button(page, 'Example: a drawn 3').click();
      await answers(page, '3');
    },
    { file: 'seed_here' },
  ));

await test('a kernel of the training that the driver refuses is named', () =>
  withPage(
    async (page) => {
      await ready(page);
      assert.equal(await engine(page), 'webgpu');
      await button(page, 'Train from scratch').click();
      await phase(page, 'off');
      assert.match(await text(page, 'progress'), /^The graphics driver rejected the shader sgd\.wgsl \(line \d+: .+\)\.$/);
      await button(page, 'Example: a drawn 3').click();
      await answers(page, '3');
      assert.equal(await engine(page), 'webgpu');
    },
    {
      file: 'seed_here',
      before: `const make = GPUDevice.prototype.createShaderModule;
        GPUDevice.prototype.createShaderModule = function (given) {
          return make.call(this, given.label === 'sgd' ? { ...given, code: given.code + 'fn (' } : given);
        };`,
    },
  ));

await finish();
