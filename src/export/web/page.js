'use strict';
// The page: the model that the exporter embedded, the board, and the network's answer.

/**
 * @param {string} id
 * @returns {any}
 */
const element = (id) => document.getElementById(id);

/**
 * @param {string} base64
 * @returns {Uint8Array<ArrayBuffer>}
 */
const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/** Allowed difference of a device's answers from those of plain JavaScript, as a fraction of the largest. */
const TOLERANCE = 1e-3;
/** Milliseconds without a change after which the answer is read out. */
const READ_OUT_AFTER = 700;

const model = readModel(element('model').textContent);
const [channels, height, width] = model.input;
/** Drawings make no sense for a network trained on colour images. */
const draws = channels === 1;

/**
 * @param {string} json
 * @returns {Model}
 */
function readModel(json) {
  const model = JSON.parse(json);
  for (const name of Object.keys(model.buffers)) {
    model.buffers[name] = new Float32Array(bytesOf(model.buffers[name]).buffer);
  }
  for (const layer of model.layers) {
    layer.params = {};
    for (const { name, bytes, place } of /** @type {Tensor[]} */ (model.plan.tensors)) {
      if (!('Kept' in place && place.Kept.buffer in model.buffers)) continue;
      const { buffer, offset } = place.Kept;
      // Layers share trained parameters, but never running statistics.
      const wanted = (buffer.endsWith('params') && layer.weights_of) || layer.name;
      const [owner, param] = name.split('.');
      if (owner === wanted) {
        layer.params[param] = model.buffers[buffer].subarray(offset / 4, (offset + bytes) / 4);
      }
    }
  }
  return model;
}

/**
 * WebGPU, once it is ready and as long as it works; before and after that, plain JavaScript answers.
 * @type {Program | null}
 */
let program = null;

async function openWebGpu() {
  try {
    const opened = await Program.open(model);
    // A faulty driver would silently give wrong answers.
    const probe = Uint8Array.from({ length: channels * height * width }, (_, i) => (i * 97) % 256);
    const [got, want] = [await opened.run(probe), evaluate(model, probe)];
    const largest = want.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    if (!want.every((value, i) => Math.abs(got[i] - value) <= TOLERANCE * largest)) {
      opened.device.destroy();
      throw new NoWebGpu('The graphics device computes wrong results');
    }
    program = opened;
    opened.lost.then(({ message }) => leaveWebGpu(opened, message));
    showEngine();
    await update();
  } catch (error) {
    const reason = error instanceof NoWebGpu ? error : new NoWebGpu('WebGPU does not work here', String(error));
    explain(reason.message);
  }
  document.body.dataset.ready = 'yes';
}

/**
 * Continues in plain JavaScript.
 * @param {Program} failed
 * @param {string} reason
 */
function leaveWebGpu(failed, reason) {
  if (program === failed) {
    program = null;
    explain(reason);
    update();
  }
}

/** @param {string} reason a sentence without its full stop */
function explain(reason) {
  element('trouble').textContent = `${reason}, so the network runs in plain JavaScript. The answers are the same.`;
  showEngine();
}

function showEngine() {
  const { launches } = model.plan;
  document.body.dataset.engine = program ? 'webgpu' : 'javascript';
  element('engine').textContent = program
    ? `Computed by ${launches.length} WGSL kernel launches on WebGPU (${program.adapter}).`
    : 'Computed in plain JavaScript.';
}

/**
 * @param {Uint8Array} pixels
 * @returns {Promise<Float32Array>} logits
 */
async function compute(pixels) {
  const running = program;
  if (running) {
    try {
      return await running.run(pixels);
    } catch (error) {
      leaveWebGpu(running, new NoWebGpu('The graphics device was lost', String(error)).message);
    }
  }
  return evaluate(model, pixels);
}

/**
 * @param {Float32Array} logits
 * @returns {number[]}
 */
function softmax(logits) {
  // Without subtracting the largest, exp would overflow.
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - largest) / model.temperature));
  const sum = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / sum);
}

let [busy, outdated] = [false, false];

/** Shows the network's answer for the board. During computation, later changes wait, and only the last one counts. */
async function update() {
  outdated = true;
  if (busy) {
    return;
  }
  busy = true;
  while (outdated) {
    outdated = false;
    const { strokes, picture } = board.seen();
    const pixels = picture?.pixels ?? (strokes.length > 0 ? imageFor(model, board.drawing()) : null);
    showInput(pixels, picture);
    const logits = pixels && (await compute(pixels));
    const isAnswer = !logits || logits.every(Number.isFinite);
    if (!isAnswer) {
      element('problem').textContent = 'The network has no answer: its results for this image are not finite numbers.';
    }
    showAnswer(logits && isAnswer ? softmax(logits) : null);
  }
  busy = false;
}

/**
 * @param {Uint8Array | null} pixels
 * @param {Picture | null} picture
 */
function showInput(pixels, picture) {
  const canvas = /** @type {HTMLCanvasElement} */ (element('input'));
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  const plane = width * height;
  for (let at = 0; pixels && at < plane; at++) {
    const [red, green, blue] = [0, 1, 2].map((colour) => pixels[at + (channels === 3 ? colour * plane : 0)]);
    image.data.set([red, green, blue, 255], 4 * at);
  }
  canvas.getContext('2d')?.putImageData(image, 0, 0);
  const size = `${width} by ${height} pixels`;
  const subject = picture ? `the picture ${picture.name}` : 'your drawing';
  const seen = `${subject}, ${model.pictures ? 'stretched to' : 'scaled and centred,'} ${size}`;
  canvas.ariaLabel = `What the network sees: ${pixels ? seen : 'nothing yet'}`;
  if (!draws) {
    element('board').ariaLabel = picture ? `Picture: ${picture.name}` : 'No picture yet';
  }
}

/** @type {{ row: HTMLElement, bar: HTMLElement, percent: HTMLElement }[]} */
const rows = model.classes.map((name) => {
  const row = document.createElement('li');
  const [label, track, bar, percent] = ['span', 'span', 'span', 'span'].map((tag) => document.createElement(tag));
  [label.className, track.className, percent.className] = ['name', 'track', 'percent'];
  label.textContent = name;
  track.ariaHidden = 'true';
  track.append(bar);
  row.append(label, track, percent);
  return { row, bar, percent };
});

let answer = '';

/** @param {number[] | null} probabilities */
function showAnswer(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  rows.forEach(({ row, bar, percent }, index) => {
    const part = probabilities ? probabilities[index] : 0;
    row.className = index === best ? 'best' : '';
    bar.style.width = `${100 * part}%`;
    percent.textContent = probabilities ? percentOf(part) : '';
  });
  element('answer').textContent = probabilities ? model.classes[best] : '–';
  element('answer').className = probabilities && model.classes[best].length > 3 ? 'words' : '';
  element('certainty').textContent = probabilities ? percentOf(probabilities[best]) : '';
  answer = probabilities ? `${model.classes[best]}, ${percentOf(probabilities[best])}` : '';
  element('hint').hidden = !board.empty;
  // Not `disabled`, which would take the focus from the button just pressed.
  element('undo').ariaDisabled = String(board.marks.length === 0);
  element('clear').ariaDisabled = String(board.empty);
}

/** @param {number} part */
const percentOf = (part) => `${(100 * part).toFixed(1)} %`;

let readOut = 0;

/** @param {string} [said] */
function changed(said) {
  element('problem').textContent = '';
  update();
  clearTimeout(readOut);
  if (said) {
    element('live').textContent = said;
  }
  readOut = setTimeout(() => {
    element('live').textContent = answer ? `Answer: ${answer}` : element('live').textContent;
  }, READ_OUT_AFTER);
}

/** Files are opened in order, however long each takes. */
let opening = Promise.resolve();

/** @param {File} file */
function openFile(file) {
  opening = opening.then(async () => {
    try {
      board.show(await openPicture(model, file, file.name));
    } catch (error) {
      if (!(error instanceof BadPicture)) {
        throw error;
      }
      element('problem').textContent = error.message;
    }
  });
}

async function showExamples() {
  const pictures = await Promise.all(
    model.examples.map(({ name, png }) => openPicture(model, new Blob([bytesOf(png)]), `a drawn ${name}`)),
  );
  pictures.forEach((picture) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.ariaLabel = `Example: ${picture.name}`;
    button.append(picture.shown);
    button.addEventListener('click', () => board.show(picture));
    element('examples').querySelector('div').append(button);
  });
  element('examples').hidden = pictures.length === 0;
}

const board = new Board(element('board'), draws, changed);
if (!draws) {
  element('board').role = 'img';
  element('board').removeAttribute('tabindex');
  element('board').removeAttribute('aria-describedby');
  element('board').addEventListener('click', () => element('open').click());
  element('keys').hidden = true;
  // The next picture takes the place of the last.
  element('undo').hidden = element('clear').hidden = true;
  element('hint').textContent = matchMedia('(pointer: coarse)').matches ? 'Open a picture' : 'Open, drop or paste a picture';
}
document.body.classList.toggle('shows', !draws);
document.body.classList.toggle('pictures', model.pictures);
takeFiles(element('open'), element('file'), openFile);
const digits = model.classes.every((name, index) => name === String(index)) && model.classes.length === 10;
element('title').textContent = !draws ? 'Open a picture' : digits ? 'Draw a digit' : 'Draw or open a picture';
document.title = `${element('title').textContent} – ${model.name}`;
const accuracy = `${model.test_accuracy.toFixed(2)} % correct on its test images`;
element('model-line').textContent = `${model.name}: ${model.parameters.toLocaleString('en')} parameters, ${accuracy}`;
element('classes').append(...rows.map(({ row }) => row));
element('classes').classList.toggle('many', rows.length > 16);
element('undo').addEventListener('click', () => board.undo());
element('clear').addEventListener('click', () => board.clear());
document.addEventListener('keydown', (event) => {
  if (draws && (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === 'z') {
    event.preventDefault();
    board.undo();
  }
});
showEngine();
update();
showExamples();
openWebGpu();
