'use strict';
// Turns a drawing into an MNIST-style image, as `shadernet classify` does: src/classify/prepare.rs and
// src/classify/prepare/ink.rs say why. `f` rounds to f32 where another rounding could move the image by a pixel.

/** Ink box as a fraction of the output's side. */
const BOX = Math.fround(20 / 28);
/** Strokes are widened to about this many output pixels. */
const STROKE = Math.fround(2.6);
/** Differences below this fraction of the ink's contrast are paper. */
const NOISE = Math.fround(0.15);
/** A picture whose values (of 255) differ less than this from its background is blank. */
const MIN_CONTRAST = 32;

const f = Math.fround;

/**
 * One grey image, bright ink on black, sized and centred as in MNIST.
 * @param {ImageData} picture any size and colours, dark on light or light on dark; a finished image is returned unchanged
 * @param {number} height of the result
 * @param {number} width
 * @returns {Uint8Array | null} [height][width], or null where there is no ink
 */
function prepare(picture, height, width) {
  const paper = background(picture);
  const ink = distances(picture, paper);
  if (largestOf(ink) < MIN_CONTRAST) {
    return null;
  }
  if (picture.height === height && picture.width === width && isFinished(picture, paper)) {
    return ink.map((_, pixel) => picture.data[4 * pixel]);
  }
  stretch(ink);
  return place(ink, picture.width, height, width);
}

/**
 * True if a picture already looks like an MNIST image: grey, with a black border.
 * @param {ImageData} picture
 * @param {number[]} paper
 */
function isFinished({ data }, paper) {
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] !== data[at + 1] || data[at + 1] !== data[at + 2] || data[at + 3] !== 255) {
      return false;
    }
  }
  return paper.every((value) => value < 16);
}

/**
 * The colour of the paper: the median of the border or, if that is transparent, what contrasts with the ink.
 * @param {ImageData} picture
 * @returns {number[]} red, green, blue
 */
function background({ data, width, height }) {
  const border = [];
  for (let x = 0; x < width; x++) {
    border.push(x, (height - 1) * width + x);
  }
  for (let y = 0; y < height; y++) {
    border.push(y * width, y * width + width - 1);
  }
  const opaque = border.filter((pixel) => data[4 * pixel + 3] >= 128);
  if (2 * opaque.length > border.length) {
    return [0, 1, 2].map((channel) => {
      const values = opaque.map((pixel) => data[4 * pixel + channel]).sort((a, b) => a - b);
      return values[values.length >> 1];
    });
  }
  let [light, weight] = [0, 0];
  for (let at = 0; at < data.length; at += 4) {
    light += (data[at] + data[at + 1] + data[at + 2]) * data[at + 3];
    weight += 3 * 255 * data[at + 3];
  }
  const paper = 2 * light < weight ? 255 : 0;
  return [paper, paper, paper];
}

/**
 * How much ink is in each pixel: its distance from the paper's colour. Transparency is paper.
 * @param {ImageData} picture
 * @param {number[]} paper
 */
function distances({ data }, [red, green, blue]) {
  const ink = new Uint8Array(data.length / 4);
  for (let pixel = 0, at = 0; pixel < ink.length; pixel++, at += 4) {
    const [r, g, b] = [Math.abs(data[at] - red), Math.abs(data[at + 1] - green), Math.abs(data[at + 2] - blue)];
    ink[pixel] = Math.floor((Math.max(r, g, b) * data[at + 3]) / 255);
  }
  return ink;
}

/**
 * Makes faint differences 0 and typical ink 255.
 * @param {Uint8Array} ink is changed
 */
function stretch(ink) {
  const typical = peak(ink);
  const stretched = Uint8ClampedArray.from({ length: 256 }, (_, value) =>
    Math.trunc(f(f(255 * f(f(value / typical) - NOISE)) / f(1 - NOISE))),
  );
  ink.forEach((value, at) => {
    ink[at] = stretched[value];
  });
}

/**
 * The finished image: scaled to fit the ink into its box, with its centre of mass on pixel (height / 2, width / 2).
 * @param {Uint8Array} ink
 * @param {number} inkWidth
 * @param {number} height
 * @param {number} width
 */
function place(ink, inkWidth, height, width) {
  const inkHeight = ink.length / inkWidth;
  const [rowSums, columnSums] = [new Array(inkHeight).fill(0), new Array(inkWidth).fill(0)];
  ink.forEach((value, at) => {
    rowSums[Math.floor(at / inkWidth)] += value;
    columnSums[at % inkWidth] += value;
  });
  const [rowExtent, columnExtent] = [extent(rowSums), extent(columnSums)];
  /** @param {number} by */
  const scaleFor = (by) =>
    Math.max(
      f(f(rowExtent.end - rowExtent.first + by) / f(BOX * height)),
      f(f(columnExtent.end - columnExtent.first + by) / f(BOX * width)),
    );
  // Averaging over one output pixel would fade thin strokes; a wider window, up to a whole stroke, widens them.
  const narrow = scaleFor(0);
  const fade = f(f(STROKE * narrow) - f(strokeWidth(ink, inkWidth) * f(1 - f(1 / STROKE))));
  const widening = f(Math.max(fade, 1, narrow) - narrow);
  const scale = scaleFor(widening);
  const rows = taps(rowExtent, height, scale, widening);
  const columns = taps(columnExtent, width, scale, widening);
  const lines = new Float32Array(inkHeight * width);
  for (let y = 0; y < inkHeight; y++) {
    columns.forEach(({ first, weights }, x) => {
      lines[y * width + x] = weights.reduce((sum, w, i) => sum + w * ink[y * inkWidth + first + i], 0);
    });
  }
  const out = new Float32Array(height * width);
  rows.forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      out[y * width + x] = weights.reduce((sum, w, i) => sum + w * lines[(first + i) * width + x], 0);
    }
  });
  const gain = 255 / peak(out);
  return Uint8Array.from(out, (value) => Math.min(Math.round(value * gain), 255));
}

/**
 * Mean width of the strokes, from their area and outline.
 * @param {Uint8Array} ink
 * @param {number} width
 */
function strokeWidth(ink, width) {
  let [area, edges] = [0, 0];
  ink.forEach((value, at) => {
    if (value >= 128) {
      area += 1;
      // Every edge is entered and left: count entries only.
      edges += at % width === 0 || ink[at - 1] < 128 ? 1 : 0;
      edges += at < width || ink[at - width] < 128 ? 1 : 0;
    }
  });
  return f(f(area / Math.max(edges, 1)) * f(4 / Math.PI));
}

/**
 * Brightness of typical ink: the mean of all values above a third of the maximum.
 * @param {Uint8Array | Float32Array} values
 */
function peak(values) {
  const least = f(largestOf(values) / 3);
  let [sum, count] = [0, 0];
  for (const value of values) {
    if (value >= least) {
      sum += value;
      count += 1;
    }
  }
  return Math.max(f(sum / count), 2 ** -126);
}

/** @param {Uint8Array | Float32Array} values of a photograph: too many to pass as arguments to `Math.max` */
function largestOf(values) {
  let most = 0;
  for (const value of values) {
    most = Math.max(most, value);
  }
  return most;
}

/** @typedef {{ length: number, first: number, end: number, centre: number }} Extent where the ink is along one axis */

/**
 * From the ink per row or column. A thousandth of the ink at either end is ignored as specks of dust.
 * @param {number[]} sums
 * @returns {Extent}
 */
function extent(sums) {
  const total = sums.reduce((sum, value) => sum + value, 0);
  /** @param {number[]} values */
  const dust = (values) => {
    let seen = 0;
    return values.findIndex((value) => (seen += value) > Math.floor(total / 1000));
  };
  const moment = sums.reduce((sum, value, i) => sum + (i + 0.5) * value, 0);
  const end = sums.length - dust([...sums].reverse());
  return { length: sums.length, first: dust(sums), end, centre: f(moment / total) };
}

/**
 * For each of `side` output pixels, `scale` source pixels large, the first source pixel of its window and the weights of
 * that and the following ones.
 * @param {Extent} extent
 * @param {number} side
 * @param {number} scale
 * @param {number} widening
 */
function taps({ length, first: begin, end: stop, centre }, side, scale, widening) {
  const first = f(begin - f(widening / 2));
  const size = f(f(stop - begin + widening) / scale);
  // The box begins on an output pixel, as in MNIST, and stays inside even if the ink is uneven.
  const middle = Math.floor(side / 2) + 0.5;
  const wanted = Math.round(f(middle - f(f(centre - first) / scale)));
  const left = Math.max(Math.min(wanted, Math.floor(f(side - size))), 0);
  return Array.from({ length: side }, (_, i) => {
    const start = f(f(first + f((i - left) * scale)) - f(widening / 2));
    const end = f(f(start + scale) + widening);
    const from = Math.min(Math.floor(Math.max(start, 0)), length);
    const to = Math.max(Math.min(Math.ceil(Math.max(end, 0)), length), from);
    const weights = Array.from({ length: to - from }, (_, j) => {
      const overlap = Math.min(from + j + 1, end) - Math.max(from + j, start);
      return Math.max(overlap, 0) / (end - start);
    });
    return { first: from, weights };
  });
}
