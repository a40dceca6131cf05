'use strict';
// Runs plans on WebGPU, as src/gpu/program.rs does natively: the same launches, the same WGSL.

/**
 * A plan, as `Plan` in src/plan/mod.rs.
 * @typedef {{ name: string, bytes: number, place: { Slot: number } | { Kept: { buffer: string, offset: number } } }} Tensor
 * @typedef {{ index: number, tensor: number, writable: boolean }} Bound
 * @typedef {{
 *   label: string, shader: string, entry_point: string, constants: Record<string, number>, bindings: Bound[],
 *   workgroups: [number, number, number],
 * }} PlannedLaunch
 * @typedef {'Zeros' | 'Given' | { Words: string }} Contents of a buffer before the first step; words in base64
 * @typedef {{ tensors: Tensor[], buffers: Record<string, Contents>, launches: PlannedLaunch[] }} Plan
 */

/**
 * Everything that the exporter embedded in the page.
 * @typedef {{
 *   name: string, input: Shape, pictures: boolean, on_black: boolean, classes: string[], temperature: number,
 *   pixel_scale: number[], pixel_offset: number[], parameters: number, test_accuracy: number, layers: Layer[], plan: Plan,
 *   logits: string, shaders: Record<string, string>,
 *   buffers: Record<string, Float32Array>, examples: { name: string, png: string }[], training: Recipe | null,
 * }} Model
 * @typedef {{ pipeline: GPUComputePipeline, group: GPUBindGroup, workgroups: [number, number, number] }[]} Launches
 */

/** Why WebGPU cannot be used: a sentence without its full stop, and the first line of the driver's message. */
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
 * Name of a tensor's buffer, and its offset there.
 * @param {Tensor} tensor
 */
function placeOf({ place }) {
  return 'Slot' in place ? { buffer: `slot ${place.Slot}`, offset: 0 } : place.Kept;
}

/**
 * The place of a tensor that the plan has by this name.
 * @param {Plan} plan
 * @param {string} wanted
 */
function placeIn(plan, wanted) {
  const tensor = plan.tensors.find(({ name }) => name === wanted);
  if (!tensor) {
    throw new Error(`the plan has no tensor ${wanted}`);
  }
  return { ...placeOf(tensor), bytes: tensor.bytes };
}

/** A device with the buffers of some plans, and the plan that answers for one image. */
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
    /** @type {Map<string, Promise<GPUShaderModule>>} */
    this.modules = new Map();
    /** @type {Launches} */
    this.launches = [];
    this.logits = placeIn(model.plan, model.logits);
    this.nextStep = placeIn(model.plan, 'state.next_step');
    this.readback = device.createBuffer({
      size: this.logits.bytes,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
  }

  /**
   * Makes the buffers of all plans of the model and the pipelines of the classifying one, and uploads the weights.
   * @param {Model} model
   * @returns {Promise<Program>} fails with {@link NoWebGpu}
   */
  static async open(model) {
    if (!navigator.gpu) {
      throw new NoWebGpu('This browser has no WebGPU');
    }
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) {
      throw new NoWebGpu('WebGPU found no graphics adapter here');
    }
    const { description, vendor, architecture } = adapter.info;
    const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed adapter';
    const device = await adapter.requestDevice().catch((error) => {
      throw new NoWebGpu('The graphics adapter cannot be used', error.message);
    });
    const program = new Program(model, name, device);
    const plans = model.training ? [model.plan, model.training.plan, model.training.test_plan] : [model.plan];
    try {
      await program.checked(async () => {
        program.allocate(plans, model.buffers);
        program.launches = await program.compile(model.plan, model.shaders);
      });
    } catch (error) {
      device.destroy();
      throw error;
    }
    return program;
  }

  /**
   * Does work that the device may refuse; fails with {@link NoWebGpu} if it does.
   * @param {() => Promise<void>} work
   */
  async checked(work) {
    this.device.pushErrorScope('out-of-memory');
    this.device.pushErrorScope('validation');
    const problem = await work().then(() => null, (error) => error);
    const scopes = await Promise.all([this.device.popErrorScope(), this.device.popErrorScope()]);
    const refused = scopes.find(Boolean);
    if (problem || refused) {
      throw problem ?? new NoWebGpu('The graphics device rejected the network', refused?.message);
    }
  }

  /**
   * A buffer for every name in the plans, large enough for all tensors, with what it holds at first; the weights into theirs.
   * @param {Plan[]} plans
   * @param {Record<string, Float32Array>} buffers
   */
  allocate(plans, buffers) {
    /** @type {Map<string, number>} */
    const sizes = new Map();
    for (const tensor of plans.flatMap(({ tensors }) => tensors)) {
      const { buffer, offset } = placeOf(tensor);
      const end = Math.ceil((offset + tensor.bytes) / 16) * 16;
      sizes.set(buffer, Math.max(sizes.get(buffer) ?? 0, end));
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    for (const [label, size] of sizes) {
      this.buffers.set(label, this.device.createBuffer({ label, size, usage }));
    }
    plans.forEach((plan) => this.fill(plan));
    for (const [name, values] of Object.entries(buffers)) {
      this.write(name, values);
    }
  }

  /**
   * Gives every buffer that outlives a step what it holds before the first one, as far as the plan knows.
   * @param {Plan} plan
   */
  fill(plan) {
    for (const [name, contents] of Object.entries(plan.buffers)) {
      if (contents === 'Zeros') {
        this.write(name, new Uint8Array(this.buffer(name).size));
      } else if (contents !== 'Given') {
        this.write(name, bytesOf(contents.Words));
      }
    }
  }

  /**
   * Compiles every pipeline of a plan and binds its tensors.
   * @param {Plan} plan
   * @param {Record<string, string>} shaders
   * @returns {Promise<Launches>}
   */
  compile(plan, shaders) {
    return Promise.all(
      plan.launches.map(async (launch) => {
        const { label, shader, entry_point: entryPoint, constants, bindings, workgroups } = launch;
        const layout = this.device.createBindGroupLayout({
          entries: bindings.map(({ index, writable }) => ({
            binding: index,
            visibility: GPUShaderStage.COMPUTE,
            buffer: { type: writable ? 'storage' : 'read-only-storage' },
          })),
        });
        const module = await this.module(shader, shaders[shader]);
        const pipeline = await this.device
          .createComputePipelineAsync({
            label,
            layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
            compute: { module, entryPoint, constants },
          })
          .catch((error) => {
            throw new NoWebGpu(`The graphics driver rejected the shader ${shader}.wgsl`, `${label}: ${error.message}`);
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
  module(name, code) {
    const made = this.modules.get(name) ?? this.makeModule(name, code);
    this.modules.set(name, made);
    return made;
  }

  /**
   * @param {string} name
   * @param {string} code
   */
  async makeModule(name, code) {
    const module = this.device.createShaderModule({ label: name, code });
    const { messages } = await module.getCompilationInfo();
    const error = messages.find(({ type }) => type === 'error');
    if (error) {
      const words = `line ${error.lineNum}: ${error.message}`;
      throw new NoWebGpu(`The graphics driver rejected the shader ${name}.wgsl`, words);
    }
    return module;
  }

  /** @param {string} name */
  buffer(name) {
    return /** @type {GPUBuffer} */ (this.buffers.get(name));
  }

  /**
   * @param {string} name
   * @param {Float32Array | Uint8Array | Uint32Array} values a multiple of four bytes
   * @param {number} [offset] in bytes
   */
  write(name, values, offset = 0) {
    this.device.queue.writeBuffer(this.buffer(name), offset, /** @type {Float32Array<ArrayBuffer>} */ (values));
  }

  /**
   * Launches a plan for consecutive steps, then reads a tensor. Submissions may overlap, but not with this `readback`.
   * @param {Launches} launches
   * @param {number} step number of the first one; it increments with each
   * @param {number} times
   * @param {{ buffer: string, offset: number, bytes: number }} tensor
   * @param {GPUBuffer} readback
   * @returns {Promise<ArrayBuffer>}
   */
  async submit(launches, step, times, { buffer, offset, bytes }, readback) {
    this.write(this.nextStep.buffer, new Uint32Array([step]), this.nextStep.offset);
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < times; i++) {
      for (const { pipeline, group, workgroups } of launches) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
      }
    }
    pass.end();
    encoder.copyBufferToBuffer(this.buffer(buffer), offset, readback, 0, bytes);
    this.device.queue.submit([encoder.finish()]);
    await readback.mapAsync(GPUMapMode.READ);
    const values = readback.getMappedRange().slice(0);
    readback.unmap();
    return values;
  }

  /**
   * The logits of an image. One call at a time.
   * @param {Uint8Array} pixels [channel][row][column]
   * @returns {Promise<Float32Array>} one per class
   */
  async run(pixels) {
    const words = new Uint8Array(Math.ceil(pixels.length / 4) * 4);
    words.set(pixels);
    this.write('drawing.images', words);
    const values = new Float32Array(await this.submit(this.launches, 0, 1, this.logits, this.readback));
    // Values of four images are interleaved, and the drawing is the first image.
    return Float32Array.from({ length: this.classes }, (_, index) => values[4 * index]);
  }
}
