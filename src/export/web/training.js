'use strict';
// Trains the network on WebGPU: the plan of a step, launched again and again, as src/gpu/mod.rs does natively.

/**
 * What the exporter put into a page that trains: plans, images and first weights, as their buffers hold them. Bytes are in
 * base64, those of `data` zipped.
 * @typedef {{
 *   plan: Plan, test_plan: Plan, epochs: number, steps_per_epoch: number, images: number, test_images: number,
 *   batch: number, test_batch: number, ring: number, first: { buffers: string[], values: string }[],
 *   data: Record<string, string>,
 * }} Recipe
 * @typedef {{ loss: number, right: number }} Sums over images
 */

/**
 * @param {Uint8Array<ArrayBuffer>} zipped
 * @returns {Promise<Uint8Array>}
 */
async function unzipped(zipped) {
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A training on a device, from its first step to its last. */
class Training {
  /**
   * @param {Program} program
   * @param {Recipe} recipe
   */
  constructor(program, recipe) {
    this.program = program;
    this.recipe = recipe;
    this.step = 0;
    /** @type {Launches} */
    this.steps = [];
    /** @type {Launches} */
    this.tests = [];
    this.ring = placeIn(recipe.plan, 'metrics_ring');
    this.readback = program.device.createBuffer({
      size: this.ring.bytes,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
  }

  /**
   * Compiles the plans and uploads the images.
   * @param {Program} program
   * @param {Model} model
   * @param {Recipe} recipe
   * @returns {Promise<Training>} fails with {@link NoWebGpu}
   */
  static async open(program, model, recipe) {
    const training = new Training(program, recipe);
    await program.checked(async () => {
      training.steps = await program.compile(recipe.plan, model.shaders);
      training.tests = await program.compile(recipe.test_plan, model.shaders);
      for (const [name, base64] of Object.entries(recipe.data)) {
        program.write(name, await unzipped(bytesOf(base64)));
      }
    });
    return training;
  }

  /** Resets everything that a step changes to its initial state. */
  begin() {
    const { recipe, program } = this;
    this.step = 0;
    program.fill(recipe.plan);
    for (const { buffers, values } of recipe.first) {
      buffers.forEach((buffer) => program.write(buffer, bytesOf(values)));
    }
  }

  /** Number of steps in the whole training. */
  get length() {
    return this.recipe.epochs * this.recipe.steps_per_epoch;
  }

  /**
   * Takes some steps.
   * @param {number} count at most `recipe.ring`
   * @returns {Promise<Sums>} over the images of these steps, while the weights change
   */
  train(count) {
    const first = this.step;
    this.step += count;
    return this.launch(this.steps, first, count);
  }

  /** @returns {Promise<Sums>} over the test images */
  test() {
    const { test_images: images, test_batch: batch } = this.recipe;
    return this.launch(this.tests, 0, Math.ceil(images / batch));
  }

  /**
   * @param {Launches} launches
   * @param {number} first
   * @param {number} count
   */
  async launch(launches, first, count) {
    const values = new Float32Array(await this.program.submit(launches, first, count, this.ring, this.readback));
    const width = values.length / this.recipe.ring;
    const sums = { loss: 0, right: 0 };
    for (let step = first; step < first + count; step++) {
      const start = (step % this.recipe.ring) * width;
      for (let at = start; at < start + width; at += 2) {
        sums.loss += values[at];
        sums.right += values[at + 1];
      }
    }
    return sums;
  }
}
