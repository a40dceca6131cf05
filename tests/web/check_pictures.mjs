// Opens pictures in the pages that run.sh made, as check.mjs draws on them; the same arguments.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  LOGIT_TOLERANCE, PIXEL_TOLERANCE, answers, draw, engine, finish, folder, largest, logitsOf, ready, test, text, withPage,
} from './harness.mjs';
import { DIGITS } from './strokes.mjs';

/**
 * Largest difference of a prepared pixel of a JPEG, of 255: decoders may round differently, and smooth colours differently.
 */
const JPEG_TOLERANCE = 3;

/** Test pictures of a set, in the order of `shadernet eval`. */
function pictures(set) {
  const test = join(folder, set, 'test');
  return readdirSync(test).sort().flatMap((name) => readdirSync(join(test, name)).sort().map((file) => join(test, name, file)));
}

/** Opens a file by the button and waits until it is answered. */
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
        console.log(`        ${JSON.stringify(most)}`);
        assert.ok(files.length >= 20);
        assert.ok(most.webgpu <= LOGIT_TOLERANCE && most.javascript <= LOGIT_TOLERANCE, 'logits of the same pixels differ');
        assert.ok(most.png <= PIXEL_TOLERANCE.most && most.jpg <= JPEG_TOLERANCE, 'pixels differ');
      },
      { file: set },
    ));
}
await finish();
