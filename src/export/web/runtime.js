'use strict';
// Carries out the evaluation plan on WebGPU, as src/gpu/program.rs does natively: the same launches, the same WGSL.

/**
 * A plan as `Plan` in src/plan/mod.rs has it.
 * @typedef {{ name: string, bytes: number, place: { Slot: number } | { Kept: { buffer: string, offset: number } } }} Tensor
 * @typedef {{ index: number, tensor: number, writable: boolean }} Bound
 * @typedef {{
 *   label: string, shader: string, entry_point: string, constants: Record<string, number>, bindings: Bound[],
 *   workgroups: [number, number, number],
 * }} Dispatch
 * @typedef {{ tensors: Tensor[], dispatches: Dispatch[] }} Plan
 */

/**
 * All that the exporter put into the page.
 * @typedef {{
 *   name: string, input: Shape, pictures: boolean, classes: string[], pixel_scale: number, pixel_offset: number, parameters: number,
 *   test_accuracy: number, layers: Layer[], plan: Plan, logits: string, shaders: Record<string, string>,
 *   buffers: Record<string, Float32Array>, examples: { name: string, png: string }[],
 * }} Model
 */

/** Why WebGPU cannot be used: a sentence without its full stop, and the first line of the driver's own words. */
class NoWebGpu extends Error {
  /**
   * @param {string} sentence
   * @param {string} [words]
   */
  constructor(sentence, words) {
    const detail = words?.split('\n')[0].replace(/[.\s]+$/, '');
    super(detail ? `${sentence} (${detail})` : sentence);
  }
}

/**
 * Name of the buffer that a tensor is in, and its place there.
 * @param {Tensor} tensor
 */
function placeOf({ place }) {
  return 'Slot' in place ? { buffer: `slot ${place.Slot}`, offset: 0 } : place.Kept;
}

/** A plan on a device, ready to run. */
class Program {
  /**
   * @param {Model} model
   * @param {string} adapter
   * @param {GPUDevice} device
   */
  constructor(model, adapter, device) {
    this.classes = model.classes.length;
    this.adapter = adapter;
    this.device = device;
    /** Resolves with the reason when the device is gone. */
    this.lost = device.lost.then(({ message }) => new NoWebGpu('The graphics device was lost', message));
    /** @type {Map<string, GPUBuffer>} */
    this.buffers = new Map();
    /** @type {{ pipeline: GPUComputePipeline, group: GPUBindGroup, workgroups: [number, number, number] }[]} */
    this.launches = [];
    const logits = model.plan.tensors.find(({ name }) => name === model.logits);
    if (!logits) {
      throw new Error(`the plan has no tensor ${model.logits}`);
    }
    this.logits = { ...placeOf(logits), bytes: logits.bytes };
    this.readback = device.createBuffer({
      size: logits.bytes,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
  }

  /**
   * Makes buffers and pipelines and uploads the weights.
   * @param {Model} model
   * @returns {Promise<Program>} fails with {@link NoWebGpu}
   */
  static async open(model) {
    if (!navigator.gpu) {
      throw new NoWebGpu('This browser has no WebGPU');
    }
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) {
      throw new NoWebGpu('WebGPU finds no graphics adapter here');
    }
    const { description, vendor, architecture } = adapter.info;
    const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed adapter';
    const device = await adapter.requestDevice().catch((error) => {
      throw new NoWebGpu('The graphics adapter cannot be used', error.message);
    });
    const program = new Program(model, name, device);
    device.pushErrorScope('out-of-memory');
    device.pushErrorScope('validation');
    /** @type {Error | undefined} */
    let problem;
    try {
      program.allocate(model);
      await program.compile(model);
    } catch (error) {
      problem = /** @type {Error} */ (error);
    }
    const refused = (await Promise.all([device.popErrorScope(), device.popErrorScope()])).find(Boolean);
    if (problem || refused) {
      device.destroy();
      throw problem ?? new NoWebGpu('The graphics device refuses the network', refused?.message);
    }
    return program;
  }

  /**
   * A zeroed buffer for every name in the plan, large enough for all its tensors; the weights into theirs.
   * @param {Model} model
   */
  allocate({ plan, buffers }) {
    /** @type {Map<string, number>} */
    const sizes = new Map();
    for (const tensor of plan.tensors) {
      const { buffer, offset } = placeOf(tensor);
      const end = Math.ceil((offset + tensor.bytes) / 16) * 16;
      sizes.set(buffer, Math.max(sizes.get(buffer) ?? 0, end));
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    for (const [label, size] of sizes) {
      this.buffers.set(label, this.device.createBuffer({ label, size, usage }));
    }
    for (const [name, values] of Object.entries(buffers)) {
      this.write(name, values);
    }
  }

  /**
   * Compiles every pipeline and binds its tensors.
   * @param {Model} model
   */
  async compile({ plan, shaders }) {
    const names = Object.keys(shaders);
    const modules = await Promise.all(names.map((name) => this.module(name, shaders[name])));
    const byName = new Map(names.map((name, i) => [name, modules[i]]));
    this.launches = await Promise.all(
      plan.dispatches.map(async (dispatch) => {
        const { label, shader, entry_point: entryPoint, constants, bindings, workgroups } = dispatch;
        const layout = this.device.createBindGroupLayout({
          entries: bindings.map(({ index, writable }) => ({
            binding: index,
            visibility: GPUShaderStage.COMPUTE,
            buffer: { type: writable ? 'storage' : 'read-only-storage' },
          })),
        });
        const module = /** @type {GPUShaderModule} */ (byName.get(shader));
        const pipeline = await this.device
          .createComputePipelineAsync({
            label,
            layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
            compute: { module, entryPoint, constants },
          })
          .catch((error) => {
            throw new NoWebGpu(`The graphics driver refuses the shader ${shader}.wgsl`, `${label}: ${error.message}`);
          });
        const entries = bindings.map(({ index, tensor }) => {
          const { buffer, offset } = placeOf(plan.tensors[tensor]);
          const size = Math.ceil(plan.tensors[tensor].bytes / 4) * 4;
          return { binding: index, resource: { buffer: this.buffer(buffer), offset, size } };
        });
        return { pipeline, group: this.device.createBindGroup({ label, layout, entries }), workgroups };
      }),
    );
  }

  /**
   * @param {string} name
   * @param {string} code
   */
  async module(name, code) {
    const module = this.device.createShaderModule({ label: name, code });
    const { messages } = await module.getCompilationInfo();
    const error = messages.find(({ type }) => type === 'error');
    if (error) {
      const words = `line ${error.lineNum}: ${error.message}`;
      throw new NoWebGpu(`The graphics driver refuses the shader ${name}.wgsl`, words);
    }
    return module;
  }

  /** @param {string} name */
  buffer(name) {
    return /** @type {GPUBuffer} */ (this.buffers.get(name));
  }

  /**
   * @param {string} name
   * @param {Float32Array | Uint8Array} values a multiple of four bytes
   */
  write(name, values) {
    this.device.queue.writeBuffer(this.buffer(name), 0, /** @type {Float32Array<ArrayBuffer>} */ (values));
  }

  /**
   * The logits of an image. One call at a time.
   * @param {Uint8Array} pixels [channel][row][column]
   * @returns {Promise<Float32Array>} one for each class
   */
  async run(pixels) {
    const words = new Uint8Array(Math.ceil(pixels.length / 4) * 4);
    words.set(pixels);
    this.write('drawing.images', words);
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, workgroups } of this.launches) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
    const { buffer, offset, bytes } = this.logits;
    encoder.copyBufferToBuffer(this.buffer(buffer), offset, this.readback, 0, bytes);
    this.device.queue.submit([encoder.finish()]);
    await this.readback.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(this.readback.getMappedRange().slice(0));
    this.readback.unmap();
    // A value of four images lies together, and the drawing is the first of them.
    return Float32Array.from({ length: this.classes }, (_, index) => values[4 * index]);
  }
}
