// Opens the pages made by run.sh, in the folder named as argument, and uses them as people do. README.md has the
// list.
// A second argument selects the cases with this text in their name.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  LOGIT_TOLERANCE, PIXEL_TOLERANCE, answers, draw, engine, finish, folder, images, largest, logitsOf, ready, test, text, withPage,
} from './harness.mjs';
import { DIGITS } from './strokes.mjs';

const root = new URL('../../', import.meta.url);
const MAX_BYTES = 300_000;
const MAX_FIRST_ANSWER_MS = 2000;

for (const [file, set] of [
  ['seed', new URL('data/mnist/t10k-images-idx3-ubyte.gz', root)],
  ['all_layers', join(folder, 'noise/t10k-images-idx3-ubyte')],
]) {
  await test(`${file}: 100 test images have the logits of the CPU engine`, () =>
    withPage(
      async (page) => {
        await ready(page);
        assert.equal(await engine(page), 'webgpu');
        const wanted = logitsOf(join(folder, `${file}.logits`));
        const found = await page.evaluate(async (images) => {
          const results = { webgpu: [], javascript: [] };
          for (const image of images) {
            const pixels = Uint8Array.from(image);
            results.webgpu.push([...(await program.run(pixels))]);
            results.javascript.push([...evaluate(model, pixels)]);
          }
          return results;
        }, images(set));
        const figures = Object.entries(found).map(([engine, logits]) => {
          const differences = logits.flatMap((row, i) => row.map((logit, j) => Math.abs(logit - wanted[i][j])));
          const most = Math.max(...differences);
          assert.ok(most <= LOGIT_TOLERANCE, `${engine}: a logit differs by ${most}`);
          logits.forEach((row, i) => assert.equal(largest(row), largest(wanted[i]), `${engine}: image ${i}`));
          return `${engine} differs by at most ${most.toExponential(1)}`;
        });
        return `${figures.join(', ')}; the same classes`;
      },
      { file },
    ));
}

await test('pictures are prepared as `classify` prepares them, and recognised', () =>
  withPage(async (page) => {
    const wanted = Object.entries(JSON.parse(readFileSync(join(folder, 'seed.prepared'))));
    let [most, sum] = [0, 0];
    for (const [path, pixels] of wanted) {
      const name = basename(path);
      await page.locator('#file').setInputFiles(path);
      await answers(page, name[0]);
      const prepared = await page.evaluate(() => [...board.seen().picture.pixels]);
      const differences = prepared.map((value, i) => Math.abs(value - pixels[i]));
      const worst = Math.max(...differences);
      assert.ok(worst <= PIXEL_TOLERANCE.most, `${name}: a pixel differs by ${worst} of 255`);
      most = Math.max(most, worst);
      sum += differences.reduce((sum, value) => sum + value, 0) / pixels.length;
      await page.getByRole('button', { name: 'Clear' }).click();
      await answers(page, '–');
    }
    assert.equal(wanted.length, 1 + readdirSync(new URL('data/digits', root)).filter((name) => name.endsWith('.png')).length);
    const mean = sum / wanted.length;
    assert.ok(mean <= PIXEL_TOLERANCE.mean, `the mean differs by ${mean}`);
    return `${wanted.length} pictures, pixels differ by at most ${most} of 255, ${mean.toFixed(4)} on average`;
  }));

await test('digits drawn with the mouse are recognised, stroke by stroke', () =>
  withPage(async (page) => {
    await ready(page);
    for (const [digit, strokes] of Object.entries(DIGITS)) {
      await draw(page, strokes);
      await answers(page, digit);
      await page.getByRole('button', { name: 'Clear' }).click();
      await answers(page, '–');
    }
    assert.equal(await engine(page), 'webgpu');
    return Object.keys(DIGITS).join(', ');
  }));

await test('a finger draws and does not scroll the page', () =>
  withPage(
    async (page, context) => {
      const session = await context.newCDPSession(page);
      const { x, y, width } = await page.locator('#board').boundingBox();
      const touch = (type, points) =>
        session.send('Input.dispatchTouchEvent', {
          type,
          touchPoints: points.map(([atX, atY]) => ({ x: x + atX * width, y: y + atY * width })),
        });
      for (const [first, ...rest] of DIGITS[7]) {
        await touch('touchStart', [first]);
        for (const point of rest) {
          await touch('touchMove', [point]);
        }
        await touch('touchEnd', []);
      }
      await answers(page, '7');
      assert.equal(await page.evaluate(() => scrollY), 0);
    },
    { options: { hasTouch: true, viewport: { width: 360, height: 640 } } },
  ));

await test('probabilities of all classes, the answer and the image that the network sees', () =>
  withPage(async (page) => {
    await draw(page, DIGITS[4]);
    await answers(page, '4');
    const percents = await page.locator('#classes .percent').allTextContents();
    const total = percents.reduce((sum, percent) => sum + parseFloat(percent), 0);
    assert.ok(percents.length === 10 && Math.abs(total - 100) < 1, percents.join());
    assert.equal(await page.locator('#classes .best .name').textContent(), '4');
    assert.match(await page.locator('#input').getAttribute('aria-label'), /28 by 28 pixels/);
    const ink = await page.evaluate(() => {
      const { data } = document.getElementById('input').getContext('2d').getImageData(0, 0, 28, 28);
      return data.filter((value, at) => at % 4 === 0 && value > 127).length;
    });
    assert.ok(ink > 25 && ink < 205, `${ink} bright pixels`);
    await page.waitForFunction(() => /^Answer: 4, /.test(document.getElementById('live').textContent));
  }));

await test('examples, undo and clear', () =>
  withPage(async (page) => {
    for (let digit = 0; digit < 10; digit++) {
      await page.getByRole('button', { name: `Example: a drawn ${digit}` }).click();
      await answers(page, String(digit));
    }
    await draw(page, DIGITS[1]);
    await answers(page, '1');
    const [undo, clear] = ['Undo', 'Clear'].map((name) => page.getByRole('button', { name }));
    await undo.click();
    await answers(page, '9');
    await clear.click();
    await answers(page, '–');
    await undo.click();
    await answers(page, '9');
    for (let left = 10; left > 0; left--) {
      assert.equal(await undo.getAttribute('aria-disabled'), 'false');
      await undo.click();
    }
    await answers(page, '–');
    await page.waitForFunction(() => document.getElementById('undo').ariaDisabled === 'true');
  }));

await test('the keyboard alone draws, takes back and clears', () =>
  withPage(async (page) => {
    const press = async (key, times = 1) => {
      for (let i = 0; i < times; i++) {
        await page.keyboard.press(key);
      }
    };
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.ariaLabel);
    await press('Tab');
    assert.equal(await focused(), 'board');
    await press('ArrowUp', 14);
    await press('Space');
    await press('ArrowDown', 28);
    await press('Space');
    await answers(page, '1');
    assert.equal(await text(page, 'live'), 'Pen up.');
    await press('Tab');
    assert.equal(await focused(), 'open');
    await press('Tab');
    assert.equal(await focused(), 'undo');
    await press('Enter');
    await answers(page, '–');
    assert.equal(await focused(), 'undo', 'the focus stays');
    await press('Tab');
    assert.equal(await focused(), 'clear');
    await press('Tab');
    assert.equal(await focused(), 'Example: a drawn 0');
    await press('Space');
    await answers(page, '0');
    await press('Control+z');
    await answers(page, '–');
    await press('Enter');
    await answers(page, '0');
    await page.locator('#board').focus();
    await press('Delete');
    await answers(page, '–');
    assert.equal(await text(page, 'live'), 'The board is empty.');
  }));

// What can go wrong with WebGPU: what the page says, and that it continues.
const breakShader = `const make = GPUDevice.prototype.createShaderModule;
  GPUDevice.prototype.createShaderModule = function (given) {
    return make.call(this, given.label === 'conv2d' ? { ...given, code: given.code.replace(FROM, TO) } : given);
  };`;
const TROUBLES = [
  ['no WebGPU', "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined })", /^This browser has no WebGPU, so/],
  ['no adapter', 'GPU.prototype.requestAdapter = async () => null', /^WebGPU found no graphics adapter here, so/],
  [
    'no device',
    "GPUAdapter.prototype.requestDevice = async () => { throw new Error('busy') }",
    /^The graphics adapter cannot be used \(busy\), so/,
  ],
  [
    'a shader error',
    breakShader.replace('FROM', "'fn forward('").replace('TO', "'fn forward(('"),
    /^The graphics driver rejected the shader conv2d\.wgsl \(line \d+: .+\), so/,
  ],
  [
    'a pipeline error',
    breakShader.replace('FROM', "'fn forward('").replace('TO', "'fn missing('"),
    /^The graphics driver rejected the shader conv2d\.wgsl \(conv1\.forward: .+\), so/,
  ],
  [
    'wrong numbers',
    breakShader.replace('FROM', '/output\\[(.+?)\\] = (.+?);/').replace('TO', "'output[$1] = 1.01 * ($2);'"),
    /^The graphics device computes wrong results, so/,
  ],
];
for (const [name, before, message] of TROUBLES) {
  await test(`${name}: it is said, and plain JavaScript goes on`, () =>
    withPage(
      async (page) => {
        await ready(page);
        assert.match(await text(page, 'trouble'), message);
        assert.equal(await engine(page), 'javascript');
        await draw(page, DIGITS[7]);
        await answers(page, '7');
      },
      { before },
    ));
}

await test('the device is lost: it is said, and plain JavaScript goes on', () =>
  withPage(
    async (page) => {
      await ready(page);
      assert.deepEqual([await engine(page), await text(page, 'trouble')], ['webgpu', '']);
      await draw(page, DIGITS[0]);
      await answers(page, '0');
      await page.evaluate(() => window.testDevice.destroy());
      await page.waitForFunction(() => document.body.dataset.engine === 'javascript');
      assert.match(await text(page, 'trouble'), /^The graphics device was lost.*, so .* JavaScript/);
      await page.getByRole('button', { name: 'Clear' }).click();
      await draw(page, DIGITS[7]);
      await answers(page, '7');
    },
    {
      before: `const request = GPUAdapter.prototype.requestDevice;
        GPUAdapter.prototype.requestDevice = async function (...given) {
          return (window.testDevice = await request.apply(this, given));
        };`,
    },
  ));

await test('fits a phone, in light and dark', async () => {
  for (const file of ['seed', 'all_layers']) {
    for (const colorScheme of ['light', 'dark']) {
      await withPage(
        async (page) => {
          await draw(page, DIGITS[7]);
          assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
          const names = await page.locator('#classes .name').allTextContents();
          assert.deepEqual(names, await page.evaluate(() => model.classes));
        },
        { file, options: { colorScheme, isMobile: true, viewport: { width: 360, height: 640 } } },
      );
    }
  }
});

await test('small and quick', async () => {
  const { size } = statSync(join(folder, 'seed.html'));
  assert.ok(size <= MAX_BYTES, `${size} bytes`);
  // Clicks an example as soon as there is one, and notes when the answer and WebGPU are there.
  const before = `new MutationObserver(() => {
    if (!window.example) {
      window.example = document.querySelector('[aria-label="Example: a drawn 7"]');
      window.example?.click();
    }
    if (document.getElementById('answer')?.textContent === '7') {
      window.firstAnswer ??= performance.now();
    }
    if (document.body?.dataset.ready) {
      window.webgpuAnswer ??= performance.now();
    }
  }).observe(document, { subtree: true, childList: true, attributes: true })`;
  // The best of several loads: the load of other programs on a busy machine isn't the page's.
  let [first, webgpu] = [Infinity, Infinity];
  for (let load = 0; load < 5; load++) {
    const times = await withPage(
      async (page) => {
        await ready(page);
        await page.waitForFunction(() => window.firstAnswer && window.webgpuAnswer);
        assert.equal(await engine(page), 'webgpu');
        return page.evaluate(() => [window.firstAnswer, window.webgpuAnswer]);
      },
      { before },
    );
    [first, webgpu] = [Math.min(first, times[0]), Math.min(webgpu, times[1])];
  }
  assert.ok(first <= MAX_FIRST_ANSWER_MS, `the first answer took ${first} ms`);
  const [answer, same] = [first, webgpu].map(Math.round);
  return `${size} bytes; from load to the first answer ${answer} ms, to the first by WebGPU ${same} ms`;
});

await finish();
