// Draws the pictures of two datasets into the folder named as argument: `colours`, whose classes are colours, and
// `greys`, whose classes are light and dark: PNG and JPEG of many sizes, with transparency, another gamma, rotation
// by EXIF. And 7_finished.png, in MNIST's style.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { chromium } from 'playwright-core';
import { DIGITS } from './strokes.mjs';

const SETS = {
  colours: { 'not red': [40, 190, 60], red: [210, 40, 30], 'sky <blue>': [60, 90, 230] },
  greys: { dark: [60, 60, 60], light: [190, 190, 190] },
};
const SIZES = [[32, 32], [20, 20], [64, 48], [31, 77], [7, 5], [1, 1], [200, 3], [333, 250], [1200, 900], [90, 120]];

/** Orientation 6, a camera held upright. */
const EXIF = Buffer.from('\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0', 'latin1');

/** A PNG chunk that declares linear light, on which colour management would act. */
const GAMMA = Buffer.from('\0\0\0\x04gAMA\0\x01\x86\xa0\0\0\0\0', 'latin1');
GAMMA.writeUInt32BE(crc32(GAMMA.subarray(4, 12)), 12);

/** Inserts a chunk where a picture file allows it: in a JPEG after its first marker, in a PNG after its header. */
const insert = (file, at, part) => Buffer.concat([file.subarray(0, at), part, file.subarray(at)]);

/** In the browser: a colour with uneven light and noise, as a data URL. */
function drawn({ width, height, colour, type, salt, transparent }) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d', { alpha: transparent });
  const image = context.createImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const [x, y] = [(at % width) / width, Math.floor(at / width) / height];
    const light = 0.7 + 0.5 * x * (1 - y) + (Math.imul(at + salt, 2654435761) >>> 24) / 1024;
    const alpha = transparent ? 255 * Math.min(1, 1.2 - Math.hypot(x - 0.4, y - 0.5)) : 255;
    image.data.set([...colour.map((value) => value * light), alpha], 4 * at);
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL(type, 0.9);
}

/** In the browser: white strokes on 28x28 black pixels, as a data URL. */
function finished(strokes) {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 28;
  const context = canvas.getContext('2d', { alpha: false });
  [context.strokeStyle, context.lineWidth] = ['white', 2.5];
  for (const points of strokes) {
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(28 * x, 28 * y));
    context.stroke();
  }
  return canvas.toDataURL();
}

const bytesOf = (url) => Buffer.from(url.split(',')[1], 'base64');

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});
const page = await browser.newPage();
for (const [set, classes] of Object.entries(SETS)) {
  for (const [name, colour] of Object.entries(classes)) {
    for (const part of ['train', 'test']) {
      const folder = join(process.argv[2], set, part, name);
      mkdirSync(folder, { recursive: true });
      for (const [index, [width, height]] of SIZES.entries()) {
        const [transparent, jpeg] = [index % 4 === 2, index % 3 === 1];
        const [turned, gamma] = [jpeg && index > 5, index === 3];
        const salt = index + (part === 'test' ? 100 : 0);
        const type = jpeg ? 'image/jpeg' : 'image/png';
        const url = await page.evaluate(drawn, { width, height, colour, type, salt, transparent });
        let file = bytesOf(url);
        if (turned) {
          file = insert(file, 2, EXIF);
        }
        if (gamma) {
          file = insert(file, 33, GAMMA);
        }
        const words = [transparent && 'transparent', turned && 'turned', gamma && 'gamma'].filter(Boolean);
        writeFileSync(join(folder, [index, `${width}x${height}`, ...words].join('_') + (jpeg ? '.jpg' : '.png')), file);
      }
    }
  }
}
writeFileSync(join(process.argv[2], '7_finished.png'), bytesOf(await page.evaluate(finished, DIGITS[7])));
await browser.close();
