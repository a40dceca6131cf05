// Writes a dataset of noise into the folder named as argument: for all_layers.toml, or of as many classes as a second one says.

import { mkdirSync, writeFileSync } from 'node:fs';

const [height, width, classes] = [17, 15, Number(process.argv[3] ?? 4)];

/** An IDX file of bytes. */
function idx(dims, value) {
  const header = Buffer.alloc(4 + 4 * dims.length);
  header.set([0, 0, 8, dims.length]);
  dims.forEach((dim, i) => header.writeUInt32BE(dim, 4 + 4 * i));
  const count = dims.reduce((product, dim) => product * dim, 1);
  return Buffer.concat([header, Uint8Array.from({ length: count }, (_, at) => value(at))]);
}

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
for (const [part, count, salt] of [['train', Math.max(64, classes), 1], ['t10k', 100, 2]]) {
  const noise = (at) => Math.imul(at + salt, 2654435761) >>> 24;
  writeFileSync(`${folder}/${part}-images-idx3-ubyte`, idx([count, height, width], noise));
  writeFileSync(`${folder}/${part}-labels-idx1-ubyte`, idx([count], (at) => at % classes));
}
