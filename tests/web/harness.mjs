// Code shared by the checks: a browser, a page of the folder made by run.sh, and how people use it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { chromium } from 'playwright-core';

export const folder = process.argv[2];
const chosen = process.argv[3] ?? '';
/** Largest difference of a logit from the CPU engine's. */
export const LOGIT_TOLERANCE = 1e-4;
/** Largest difference of a prepared pixel, of 255, from Rust's, and of their mean. */
export const PIXEL_TOLERANCE = { most: 1, mean: 0.01 };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--enable-unsafe-webgpu',
    '--use-webgpu-adapter=swiftshader',
    '--enable-features=Vulkan',
  ],
});

let failures = 0;
/** Runs a case; what it returns is printed. */
export async function test(name, run) {
  if (!name.includes(chosen)) {
    return;
  }
  try {
    const figures = await run();
    console.log(`ok      ${name}${figures ? `: ${figures}` : ''}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED  ${name}: ${error.message}`);
  }
}

/** Opens a page, lets `use` use it, and fails on console errors and on anything loaded from elsewhere. */
export async function withPage(use, { file = 'seed', before, options = {} } = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, ...options });
  const page = await context.newPage();
  const troubles = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && troubles.push(message.text()));
  page.on('pageerror', (error) => troubles.push(error.message));
  const address = pathToFileURL(join(folder, `${file}.html`)).href;
  page.on('request', (request) => request.url() !== address && troubles.push(`loads ${request.url()}`));
  if (before) {
    await page.addInitScript(before);
  }
  try {
    await page.goto(address);
    const result = await use(page, context);
    assert.deepEqual(troubles, [], 'the console is not empty');
    return result;
  } finally {
    await context.close();
  }
}

export const ready = (page) => page.waitForSelector('body[data-ready]', { timeout: 60_000 });
export const text = (page, id) => page.locator(`#${id}`).textContent();
export const engine = (page) => page.evaluate(() => document.body.dataset.engine);
export const answers = (page, name) =>
  page.waitForFunction((name) => document.getElementById('answer').textContent === name, name, { timeout: 10_000 });

/** Draws strokes with the mouse; points are fractions of the board's side. */
export async function draw(page, strokes) {
  const { x, y, width } = await page.locator('#board').boundingBox();
  for (const [[startX, startY], ...rest] of strokes) {
    await page.mouse.move(x + startX * width, y + startY * width);
    await page.mouse.down();
    for (const [toX, toY] of rest) {
      await page.mouse.move(x + toX * width, y + toY * width, { steps: 4 });
    }
    await page.mouse.up();
  }
}

/** The only tensor of a safetensors file, in rows. */
export function logitsOf(path) {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const { shape } = JSON.parse(bytes.subarray(8, start).toString()).logits;
  const value = (row, column) => bytes.readFloatLE(start + 4 * (row * shape[1] + column));
  return Array.from({ length: shape[0] }, (_, row) => Array.from({ length: shape[1] }, (_, column) => value(row, column)));
}

/** The first 100 images of an IDX file, gzipped or not. */
export function images(path) {
  const raw = readFileSync(path);
  const bytes = raw[0] === 0x1f ? gunzipSync(raw) : raw;
  const size = bytes.readUInt32BE(8) * bytes.readUInt32BE(12);
  return Array.from({ length: 100 }, (_, i) => [...bytes.subarray(16 + i * size, 16 + (i + 1) * size)]);
}

export const largest = (values) => values.indexOf(Math.max(...values));

/** Fails if a case failed. */
export async function finish() {
  await browser.close();
  if (failures > 0) {
    console.log(`web: ${failures} failures`);
    process.exit(1);
  }
}
