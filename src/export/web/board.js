'use strict';
// The board: strokes by mouse, pen, finger or keyboard, and pictures; undo and clear.

/** @typedef {{ x: number, y: number }} Point as fractions of the board's side, from its upper left corner */

/**
 * What was done: a stroke, a picture shown, or a wipe. Only what came after the last wipe or picture is visible.
 * @typedef {{ stroke: Point[] } | { picture: Picture } | 'wiped'} Mark
 */

/** Width of the pen, and a step of the arrow keys, as fractions of the board's side. */
const PEN = 0.075;
const KEY_STEP = 0.025;
/** Side in pixels of the picture made from strokes: the same on every screen. */
const PICTURE_SIDE = 280;
const ARROWS = new Map([
  ['ArrowLeft', [-1, 0]],
  ['ArrowRight', [1, 0]],
  ['ArrowUp', [0, -1]],
  ['ArrowDown', [0, 1]],
]);

class Board {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {boolean} draws false if the board only shows pictures
   * @param {(said?: string) => void} changed called after every change, with text for screen readers
   */
  constructor(canvas, draws, changed) {
    this.canvas = canvas;
    this.changed = changed;
    /** @type {Mark[]} */
    this.marks = [];
    /** The stroke being drawn, by pointer or keyboard. */
    /** @type {Point[] | null} */
    this.open = null;
    /** @type {number | null} */
    this.pointer = null;
    /** Where the keyboard's pen is; null until an arrow key is pressed. */
    /** @type {Point | null} */
    this.cursor = null;
    if (draws) {
      this.listen();
    }
    new ResizeObserver(() => this.paint()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.paint());
  }

  /** Makes the board drawable. */
  listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    for (const end of /** @type {const} */ (['pointerup', 'pointercancel'])) {
      canvas.addEventListener(end, (event) => event.pointerId === this.pointer && this.lift());
    }
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('blur', () => {
      this.lift();
      this.cursor = null;
      this.paint();
    });
  }

  /** The visible strokes and picture. */
  seen() {
    /** @type {Point[][]} */
    const strokes = [];
    let [picture, at] = [/** @type {Picture | null} */ (null), this.marks.length];
    while (at > 0) {
      const mark = this.marks[--at];
      if (mark === 'wiped') {
        break;
      }
      if ('picture' in mark) {
        picture = strokes.length === 0 ? mark.picture : null;
        break;
      }
      strokes.unshift(mark.stroke);
    }
    return { strokes, picture };
  }

  /** True if nothing is visible. */
  get empty() {
    const { strokes, picture } = this.seen();
    return strokes.length === 0 && !picture;
  }

  /**
   * The visible strokes, black on white.
   * @returns {ImageData}
   */
  drawing() {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = PICTURE_SIDE;
    const context = contextOf(canvas);
    context.fillStyle = 'white';
    context.fillRect(0, 0, PICTURE_SIDE, PICTURE_SIDE);
    drawStrokes(context, this.seen().strokes, PICTURE_SIDE, 'black');
    return context.getImageData(0, 0, PICTURE_SIDE, PICTURE_SIDE);
  }

  /** Undoes the last mark. */
  undo() {
    this.lift();
    this.marks.pop();
    this.done(this.empty ? 'The board is empty.' : 'Stroke undone.');
  }

  /** Wipes the board; this can be undone. */
  clear() {
    this.lift();
    if (!this.empty) {
      this.marks.push('wiped');
    }
    this.done('The board is empty.');
  }

  /**
   * Shows a picture instead of the current content.
   * @param {Picture} picture
   */
  show(picture) {
    this.lift();
    this.marks.push({ picture });
    this.done(`Picture: ${picture.name}.`);
  }

  /** @param {string} [said] */
  done(said) {
    this.paint();
    this.changed(said);
  }

  /** @param {Point} point */
  begin(point) {
    this.open = [point];
    this.marks.push({ stroke: this.open });
    this.done();
  }

  lift() {
    this.open = null;
    this.pointer = null;
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (event.button !== 0 || this.pointer !== null) {
      return;
    }
    this.lift();
    this.cursor = null;
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.begin(this.pointOf(event));
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (event.pointerId === this.pointer && this.open) {
      // Older browsers have no coalesced events.
      const events = event.getCoalescedEvents?.() ?? [];
      this.open.push(...(events.length > 0 ? events : [event]).map((each) => this.pointOf(each)));
      this.done();
    }
  }

  /**
   * Arrow keys move the pen, Space lowers and lifts it, Delete wipes the board.
   * @param {KeyboardEvent} event
   */
  key(event) {
    const step = ARROWS.get(event.key);
    if (event.ctrlKey || event.metaKey || event.altKey || !(step || event.key === ' ' || event.key === 'Delete')) {
      return;
    }
    event.preventDefault();
    if (event.key === 'Delete') {
      this.clear();
      return;
    }
    this.cursor ??= { x: 0.5, y: 0.5 };
    if (step) {
      const [x, y] = [this.cursor.x + step[0] * KEY_STEP, this.cursor.y + step[1] * KEY_STEP];
      this.cursor = { x: Math.min(Math.max(x, 0), 1), y: Math.min(Math.max(y, 0), 1) };
      this.open?.push(this.cursor);
      this.open ? this.done() : this.paint();
    } else if (this.open) {
      this.lift();
      this.done('Pen up.');
    } else {
      this.begin(this.cursor);
      this.changed('Pen down.');
    }
  }

  /** @param {PointerEvent} event */
  pointOf({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return { x: (clientX - left) / width, y: (clientY - top) / height };
  }

  /** Draws the visible content in the page's colours. */
  paint() {
    const { canvas } = this;
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (canvas.width !== side) {
      canvas.width = canvas.height = side;
    }
    const context = contextOf(canvas);
    const { color, accentColor } = getComputedStyle(canvas);
    const { strokes, picture } = this.seen();
    context.clearRect(0, 0, side, side);
    if (picture) {
      const { shown } = picture;
      const scale = side / Math.max(shown.width, shown.height);
      const [width, height] = [shown.width * scale, shown.height * scale];
      context.drawImage(shown, (side - width) / 2, (side - height) / 2, width, height);
    }
    drawStrokes(context, strokes, side, color);
    if (this.cursor) {
      context.beginPath();
      context.arc(this.cursor.x * side, this.cursor.y * side, PEN * side * 0.6, 0, 2 * Math.PI);
      context.strokeStyle = accentColor;
      context.lineWidth = (this.open ? 0.016 : 0.008) * side;
      context.stroke();
    }
  }
}

/** @param {HTMLCanvasElement} canvas */
function contextOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }));
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Point[][]} strokes
 * @param {number} side of the canvas in pixels
 * @param {string} colour
 */
function drawStrokes(context, strokes, side, colour) {
  context.strokeStyle = colour;
  context.lineWidth = PEN * side;
  context.lineCap = context.lineJoin = 'round';
  for (const stroke of strokes) {
    const points = stroke.map(({ x, y }) => [x * side, y * side]);
    context.beginPath();
    context.moveTo(points[0][0], points[0][1]);
    // Curves through the midpoints between adjacent points, so quick strokes have no corners.
    for (let i = 1; i < points.length - 1; i++) {
      const [[x, y], [nextX, nextY]] = [points[i], points[i + 1]];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    const [lastX, lastY] = points[points.length - 1];
    context.lineTo(lastX, lastY); // a dot if there is a single point
    context.stroke();
  }
}
