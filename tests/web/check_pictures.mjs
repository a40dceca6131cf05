// Opens pictures in the pages made by run.sh, where check.mjs draws; the same arguments.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  LOGIT_TOLERANCE, PIXEL_TOLERANCE, answers, draw, engine, finish, folder, largest, logitsOf, ready, test, text, withPage,
} from './harness.mjs';

/**
 * Largest difference of a prepared pixel of a JPEG, of 255: decoders may differ in rounding and in chroma smoothing.
 */
const JPEG_TOLERANCE = 3;

/** Test pictures of a set, in the order of `shadernet eval`. */
function pictures(set) {
  const test = join(folder, set, 'test');
  return readdirSync(test).sort().flatMap((name) => readdirSync(join(test, name)).sort().map((file) => join(test, name, file)));
}

/** Opens a file with the button and waits for the answer. */
async function choose(page, file) {
  await page.locator('#file').setInputFiles(file);
  const name = file.name ?? basename(file);
  await page.waitForFunction((name) => board.seen().picture?.name === name && !busy, name);
}

for (const set of ['colours', 'greys']) {
  await test(`${set}: opened pictures have the pixels, the logits and the classes of the CPU engine`, () =>
    withPage(
      async (page) => {
        await ready(page);
        assert.equal(await engine(page), 'webgpu');
        // Where nobody draws, there is nothing to undo or clear.
        for (const id of ['undo', 'clear']) {
          assert.equal(await page.locator(`#${id}`).isVisible(), set === 'greys', `${id} of ${set}`);
        }
        const prepared = JSON.parse(readFileSync(join(folder, `${set}.prepared`)));
        const said = JSON.parse(readFileSync(join(folder, `${set}.answers`)));
        const logits = logitsOf(join(folder, `${set}.logits`));
        const files = pictures(set);
        const most = { png: 0, jpg: 0, webgpu: 0, javascript: 0, 'logits of png': 0, 'logits of jpg': 0 };
        const note = (what, found, wanted) => {
          assert.equal(found.length, wanted.length);
          found.forEach((value, i) => (most[what] = Math.max(most[what], Math.abs(value - wanted[i]))));
        };
        for (const [index, file] of files.entries()) {
          await choose(page, file);
          await answers(page, said[index].class);
          assert.equal(said[index].file, file);
          const kind = file.slice(-3);
          const found = await page.evaluate(async (wanted) => {
            const both = async (pixels) => [[...(await program.run(pixels))], [...evaluate(model, pixels)]];
            const { pixels } = board.seen().picture;
            return { pixels: [...pixels], own: await both(pixels), given: await both(Uint8Array.from(wanted)) };
          }, prepared[file]);
          note(kind, found.pixels, prepared[file]);
          ['webgpu', 'javascript'].forEach((engine, i) => {
            note(engine, found.given[i], logits[index]);
            note(`logits of ${kind}`, found.own[i], logits[index]);
            assert.equal(largest(found.own[i]), largest(logits[index]), file);
          });
        }
        for (const engine of ['webgpu', 'javascript', 'logits of png']) {
          assert.ok(most[engine] <= LOGIT_TOLERANCE, `${engine}: a logit differs by ${most[engine]}`);
        }
        assert.ok(most.png <= PIXEL_TOLERANCE.most, `a pixel of a PNG differs by ${most.png} of 255`);
        assert.ok(most.jpg <= JPEG_TOLERANCE, `a pixel of a JPEG differs by ${most.jpg} of 255`);
        // Palettes, 16 bits, one bit.
        const others = Object.keys(prepared).filter((file) => !files.includes(file));
        let other = 0;
        for (const file of others) {
          await choose(page, file);
          const pixels = await page.evaluate(() => [...board.seen().picture.pixels]);
          other = pixels.reduce((most, pixel, i) => Math.max(most, Math.abs(pixel - prepared[file][i])), other);
        }
        assert.ok(files.length >= 20 && others.length >= 20);
        assert.ok(other <= PIXEL_TOLERANCE.most, `a pixel of a drawn digit differs by ${other} of 255`);
        const shown = Object.entries(most).map(([what, value]) => `${what} ${value && value.toExponential(1)}`);
        return `${files.length} pictures, the same classes; differences: ${shown.join(', ')}, ${others.length} digits ${other}`;
      },
      { file: set },
    ));
}
/** Pictures that cannot be used, and what the page says. */
const png = readFileSync(new URL('../../data/digits/7_bar.png', import.meta.url));
const file = (name, bytes) => ({ name, mimeType: 'image/png', buffer: Buffer.from(bytes) });
const BROKEN = [
  [file('words.png', 'These are words.'), 'words.png is not a picture that this browser can read.'],
  [file('empty.png', ''), 'empty.png is not a picture that this browser can read.'],
  [file('head.png', png.subarray(0, 60)), 'head.png is not a picture that this browser can read.'],
  [file('<b>.png', '<svg xmlns="http://www.w3.org/2000/svg"/>'), '<b>.png is not a picture that this browser can read.'],
];

await test('what cannot be read is said, and nothing is lost', () =>
  withPage(
    async (page) => {
      const [first] = pictures('colours');
      await choose(page, first);
      const seen = await text(page, 'answer');
      for (const [broken, message] of BROKEN) {
        await page.locator('#file').setInputFiles(broken);
        await page.waitForFunction((message) => document.getElementById('problem').textContent === message, message);
        assert.deepEqual([await text(page, 'answer'), await page.evaluate(() => board.marks.length)], [seen, 1]);
      }
      await choose(page, first);
      assert.equal(await text(page, 'problem'), '');
    },
    { file: 'colours' },
  ));

await test('a picture that is blank or too large is refused for its own reason', () =>
  withPage(async (page) => {
    const sized = (width, height) =>
      page.evaluate(
        async ([width, height]) => {
          const canvas = document.createElement('canvas');
          [canvas.width, canvas.height] = [width, height];
          canvas.getContext('2d').fillRect(0, 0, width, height);
          const blob = await new Promise((done) => canvas.toBlob(done));
          openFile(new File([blob], 'x.png'));
          await opening;
          return document.getElementById('problem').textContent;
        },
        [width, height],
      );
    assert.equal(await sized(40, 40), 'No ink was found in x.png; expected a clear drawing on an even background.');
    assert.equal(await sized(9000, 2), 'x.png is too large: 9000×2 pixels, but at most 8192×8192 are supported.');
  }));

await test('a picture is dropped, or pasted; text is neither', () =>
  withPage(
    async (page) => {
      /** Sends an event that carries a file to where the pointer would be. */
      const send = (type, path) =>
        page.evaluate(
          async ([type, name, bytes]) => {
            const data = new DataTransfer();
            if (name) {
              data.items.add(new File([Uint8Array.from(bytes)], name));
            } else {
              data.setData('text/plain', 'words');
            }
            const given = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
            const Kind = type === 'paste' ? ClipboardEvent : DragEvent;
            const event = new Kind(type, given);
            document.getElementById('board').dispatchEvent(event);
            await opening;
            return { prevented: event.defaultPrevented, marked: document.body.classList.contains('dropping') };
          },
          [type, path && basename(path), path && [...readFileSync(path)]],
        );
      const files = pictures('colours');
      const [dropped, pasted] = [files.at(0), files.at(-1)];
      assert.deepEqual(await send('dragover', dropped), { prevented: true, marked: true });
      // Otherwise the browser would leave the page for the picture.
      assert.deepEqual(await send('drop', dropped), { prevented: true, marked: false });
      await answers(page, 'not red');
      await send('paste', pasted);
      await answers(page, 'sky <blue>');
      await send('paste');
      assert.deepEqual(await send('drop'), { prevented: true, marked: false });
      await answers(page, 'sky <blue>');
    },
    { file: 'colours' },
  ));

await test('the keyboard opens a picture; labels and the live region tell of it', () =>
  withPage(
    async (page) => {
      const choosing = page.waitForEvent('filechooser');
      assert.equal(await text(page, 'title'), 'Open a picture');
      assert.ok(await page.getByRole('img', { name: 'No picture yet' }).isVisible());
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement.id), 'open');
      await page.keyboard.press('Enter');
      const chooser = await choosing;
      const path = pictures('colours').find((path) => path.includes('turned'));
      await chooser.setFiles(path);
      await answers(page, 'not red');
      const name = basename(path);
      assert.ok(await page.getByRole('img', { name: `Picture: ${name}`, exact: true }).isVisible());
      assert.ok(await page.getByRole('img', { name: `the picture ${name}, stretched to 64 by 48 pixels` }).isVisible());
      assert.equal(await text(page, 'live'), `Picture: ${name}.`);
      await page.waitForFunction(() => /^Answer: not red, /.test(document.getElementById('live').textContent));
      const [red, green, blue] = await page.evaluate(() => {
        const { data } = document.getElementById('input').getContext('2d').getImageData(30, 20, 1, 1);
        return [...data];
      });
      assert.ok(green > 100 && red < 100 && blue < 120, `the preview shows ${[red, green, blue]}`);
      assert.equal(await page.evaluate(() => board.seen().picture.shown.width), 250, 'it is shown upright');
      // Its board can't be drawn on.
      await draw(page, [[[0.2, 0.2], [0.8, 0.8]]]);
      assert.equal(await page.evaluate(() => board.marks.length), 1);
    },
    { file: 'colours' },
  ));

await test('a network of grey pictures sees drawings black on white, stretched', () =>
  withPage(
    async (page) => {
      await draw(page, [[[0.5, 0.1], [0.5, 0.9]]]);
      await page.waitForFunction(() => document.getElementById('answer').textContent !== '–');
      const [side, middle] = await page.evaluate(() => {
        const context = document.getElementById('input').getContext('2d');
        const { data } = context.getImageData(0, 24, 64, 1);
        return [data[4 * 2], data[4 * 32]];
      });
      assert.deepEqual([side, middle], [255, 0]);
    },
    { file: 'greys', options: { colorScheme: 'dark' } },
  ));

await test('pictures fit a phone, in light and dark', async () => {
  for (const file of ['colours', 'greys', 'seed']) {
    for (const colorScheme of ['light', 'dark']) {
      await withPage(
        async (page) => {
          const width = () => page.evaluate(() => document.documentElement.scrollWidth);
          assert.equal(await width(), 360);
          const { height } = await page.locator('#open').boundingBox();
          assert.ok(height >= 40 && height < 50, `the button is ${height} pixels high`);
          await choose(page, { ...BROKEN[0][0], name: `${'long'.repeat(30)}.png`, buffer: png });
          await page.locator('#file').setInputFiles({ ...BROKEN[0][0], name: `${'long'.repeat(30)}.png` });
          await page.waitForFunction(() => document.getElementById('problem').textContent);
          assert.equal(await width(), 360);
        },
        { file, options: { colorScheme, isMobile: true, hasTouch: true, viewport: { width: 360, height: 640 } } },
      );
    }
  }
});

await finish();
