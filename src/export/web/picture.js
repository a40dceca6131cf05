'use strict';
// Reads a picture as `shadernet classify` does for networks that take whole pictures: src/dataset/picture.rs. `f`
// rounds to f32 to get the same pixels.

/** Maximum side in pixels. */
const MAX_SIDE = 8192;
/** Rows read at a time: on phones, a canvas may hold fewer pixels than a photograph has. */
const BAND = 512;
/** Rec. 709. */
const LIGHTNESS = [0.21264, 0.71517, 0.07219];

/** Why a picture cannot be used, in one sentence. */
class BadPicture extends Error {}

/**
 * Decodes a picture, rotated by its EXIF data, with the file's colours.
 * @param {Blob} file
 * @param {string} name for messages
 * @returns {Promise<ImageBitmap>} fails with {@link BadPicture}
 */
async function decode(file, name) {
  /** @type {ImageBitmapOptions} */
  const options = { imageOrientation: 'from-image', premultiplyAlpha: 'none', colorSpaceConversion: 'none' };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new BadPicture(`${name} is not a picture that this browser can read.`);
  });
  if (Math.max(bitmap.width, bitmap.height) > MAX_SIDE) {
    const size = `${bitmap.width}×${bitmap.height}`;
    throw new BadPicture(`${name} is too large: ${size} pixels, but at most ${MAX_SIDE}×${MAX_SIDE} are supported.`);
  }
  return bitmap;
}

/** @param {ImageBitmap} bitmap */
function pixelsOf(bitmap) {
  const picture = new ImageData(bitmap.width, bitmap.height);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [bitmap.width, Math.min(bitmap.height, BAND)];
  const context = contextOf(canvas);
  for (let top = 0; top < bitmap.height; top += BAND) {
    const rows = Math.min(BAND, bitmap.height - top);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    picture.data.set(context.getImageData(0, 0, bitmap.width, rows).data, 4 * bitmap.width * top);
  }
  return picture;
}

/**
 * A picture on white, in grey or RGB, stretched to the input size. One of the right size is unchanged.
 * @param {ImageData} picture
 * @param {Shape} input 1 or 3 channels
 * @returns {Uint8Array} [channel][row][column]
 */
function stretched(picture, [channels, height, width]) {
  const planes = flattened(picture, channels);
  const fits = picture.width === width && picture.height === height;
  const pixels = new Uint8Array(channels * height * width);
  planes.forEach((plane, channel) => {
    pixels.set(fits ? plane : resized(plane, picture.width, height, width), channel * height * width);
  });
  return pixels;
}

/**
 * @param {ImageData} picture
 * @param {number} channels
 * @returns {Uint8Array[]} one plane per channel
 */
function flattened({ data, width, height }, channels) {
  const planes = Array.from({ length: channels }, () => new Uint8Array(width * height));
  /** @param {number} colour @param {number} alpha */
  const onWhite = (colour, alpha) => Math.floor((colour * alpha + 255 * (255 - alpha) + 127) / 255);
  for (let at = 0; at < width * height; at++) {
    const alpha = data[4 * at + 3];
    const red = onWhite(data[4 * at], alpha);
    const green = onWhite(data[4 * at + 1], alpha);
    const blue = onWhite(data[4 * at + 2], alpha);
    if (channels === 1) {
      planes[0][at] = Math.round(LIGHTNESS[0] * red + LIGHTNESS[1] * green + LIGHTNESS[2] * blue);
    } else {
      planes[0][at] = red;
      planes[1][at] = green;
      planes[2][at] = blue;
    }
  }
  return planes;
}

/**
 * Resizes with a triangle filter as wide as the reduction, first along columns, then along rows.
 * @param {Uint8Array} plane
 * @param {number} planeWidth
 * @param {number} height of the result
 * @param {number} width
 * @returns {Uint8Array}
 */
function resized(plane, planeWidth, height, width) {
  const lines = new Float32Array(height * planeWidth);
  triangles(plane.length / planeWidth, height).forEach(({ first, weights }, y) => {
    const line = lines.subarray(y * planeWidth, (y + 1) * planeWidth);
    weights.forEach((weight, i) => {
      const from = (first + i) * planeWidth;
      for (let x = 0; x < planeWidth; x++) {
        line[x] += f(weight * plane[from + x]);
      }
    });
  });
  const pixels = new Uint8Array(height * width);
  triangles(planeWidth, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      const sum = weights.reduce((sum, weight, i) => f(sum + f(weight * lines[y * planeWidth + first + i])), 0);
      pixels[y * width + x] = Math.min(Math.max(Math.round(sum), 0), 255);
    }
  });
  return pixels;
}

/**
 * For each of `side` pixels made from `length`, the first source pixel under its triangle and the weights from there on.
 * @param {number} length
 * @param {number} side
 */
function triangles(length, side) {
  const ratio = f(length / side);
  const reach = Math.max(ratio, 1);
  return Array.from({ length: side }, (_, at) => {
    const centre = f((at + 0.5) * ratio);
    const first = Math.min(Math.max(Math.floor(f(centre - reach)), 0), length - 1);
    const end = Math.min(Math.max(Math.ceil(f(centre + reach)), first + 1), length);
    const heights = Array.from({ length: end - first }, (_, i) =>
      Math.max(f(1 - Math.abs(f(f(first + i - f(centre - 0.5)) / reach))), 0),
    );
    const sum = heights.reduce((sum, height) => f(sum + height), 0);
    return { first, weights: heights.map((height) => f(height / sum)) };
  });
}
