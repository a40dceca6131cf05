'use strict';
// Pictures that users open: by button, drag and drop, or paste.

/**
 * An opened picture: its canvas, and the image that the network gets, [channel][row][column].
 * @typedef {{ name: string, shown: HTMLCanvasElement, pixels: Uint8Array }} Picture
 */

/** Longest side in pixels of a displayed picture. */
const SHOWN_SIDE = 1024;

/**
 * @param {Model} model
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>} fails with {@link BadPicture}
 */
async function openPicture(model, file, name) {
  const bitmap = await decode(file, name);
  const picture = pixelsOf(bitmap);
  const pixels = imageFor(model, picture);
  if (!pixels) {
    throw new BadPicture(`No ink was found in ${name}; expected a clear drawing on an even background.`);
  }
  const shown = document.createElement('canvas');
  const scale = Math.min(SHOWN_SIDE / Math.max(bitmap.width, bitmap.height), 1);
  [shown.width, shown.height] = [bitmap.width, bitmap.height].map((side) => Math.max(Math.round(side * scale), 1));
  const context = contextOf(shown);
  context.fillStyle = model.pictures ? 'white' : `rgb(${background(picture)})`;
  context.fillRect(0, 0, shown.width, shown.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, shown.width, shown.height);
  bitmap.close();
  return { name, shown, pixels };
}

/**
 * The network's input for a picture: the same as for `shadernet classify`.
 * @param {Model} model
 * @param {ImageData} picture
 * @returns {Uint8Array | null} [channel][row][column], or null if a drawing has no ink
 */
function imageFor({ pictures, on_black, input }, picture) {
  if (!pictures) {
    return prepare(picture, input[1], input[2]);
  }
  const pixels = stretched(picture, input);
  return on_black && isOnLight(pixels, input) ? pixels.map((value) => 255 - value) : pixels;
}

/**
 * True if most of the border is rather white.
 * @param {Uint8Array} pixels [channel][row][column]
 * @param {Shape} shape
 */
function isOnLight(pixels, [, height, width]) {
  const border = pixels.filter((_, at) => {
    const [y, x] = [Math.floor((at % (height * width)) / width), at % width];
    return y === 0 || x === 0 || y + 1 === height || x + 1 === width;
  });
  return 2 * border.filter((value) => value >= 128).length > border.length;
}

/**
 * Calls `take` with every file chosen, dropped or pasted, or with the first of several.
 * @param {HTMLElement} button
 * @param {HTMLInputElement} input of type file
 * @param {(file: File) => void} take
 */
function takeFiles(button, input, take) {
  /** @param {FileList | null | undefined} files */
  const takeFirst = (files) => files?.length && take(files[0]);
  button.addEventListener('click', () => input.click());
  input.addEventListener('change', () => {
    takeFirst(input.files);
    input.value = ''; // otherwise the same file could not be chosen again
  });
  document.addEventListener('paste', (event) => takeFirst(event.clipboardData?.files));
  const { classList } = document.body;
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    classList.add('dropping');
  });
  // Moving between elements doesn't count as leaving.
  document.addEventListener('dragleave', (event) => event.relatedTarget || classList.remove('dropping'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    classList.remove('dropping');
    takeFirst(event.dataTransfer?.files);
  });
}
