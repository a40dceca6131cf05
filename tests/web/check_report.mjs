// Opens the reports made by run.sh, in the folder named as argument: however wide the screen, and on paper, the matrix and the table
// of the classes must be whole.

import assert from 'node:assert/strict';
import { finish, test, withPage } from './harness.mjs';

/** A4 less the margins of printers, in CSS pixels. */
const PAPER = 718;

/** What sticks out of the window, or must be scrolled to. */
const cut = () => {
  const width = document.documentElement.clientWidth;
  const found = document.documentElement.scrollWidth > width ? ['the page'] : [];
  for (const name of ['.matrix svg', '.matrix text', '.classes', '.classes td', '.worst figure']) {
    const parts = [...document.querySelectorAll(name)];
    const shown = parts.map((part) => part.getBoundingClientRect()).filter((box) => box.width > 0);
    if (shown.length === 0 || shown.some((box) => box.left < -0.5 || box.right > width + 0.5)) {
      found.push(name);
    }
  }
  const table = document.querySelector('.classes').parentElement;
  return table.scrollWidth > table.clientWidth ? [...found, 'the table scrolls'] : found;
};

for (const classes of [26, 100]) {
  for (const [width, media] of [[1280, 'screen'], [500, 'screen'], [360, 'screen'], [PAPER, 'print']]) {
    await test(`a report of ${classes} classes is whole, ${width} pixels wide, on ${media}`, () =>
      withPage(
        async (page) => {
          await page.emulateMedia({ media });
          assert.deepEqual(await page.evaluate(cut), []);
          const rows = await page.locator('.classes tbody tr').count();
          assert.equal(rows, classes + 1);
          assert.equal(await page.locator('.matrix .end').count(), classes);
        },
        { file: `classes_${classes}/report`, options: { viewport: { width, height: 800 } } },
      ));
  }
}
await finish();
