// Compiles every pipeline of the plans in the JSON files named as arguments (see examples/plan_json.rs) with Tint,
// Chrome's WGSL compiler, and looks for data races with wgsl_reflect. README.md says what is not checked. Start with
// run.sh.

import { readFileSync } from 'node:fs';
import { create, globals } from 'webgpu';
import { detectRaces } from 'wgsl_reflect/wgsl_reflect.module.js';

Object.assign(globalThis, globals);

// Entry points that wgsl_reflect cannot run, with the reason. README.md repeats them.
const MATRICES = 'wgsl_reflect 1.6.0 does not know sums of matrices, nor barriers in functions and loops that are no tree';
const NESTED = 'wgsl_reflect 1.6.0 loses structs that are members of structs';
const NOT_RUN = new Map([
  ['batch.begin', NESTED],
  ['batch.gather', NESTED],
  ['batch.prepare', NESTED],
  ['fused_conv2d.forward', MATRICES],
  ['fused_conv2d.forward_eval', MATRICES],
  ['fused_conv2d_backward.backward', MATRICES],
  ['fused_conv2d_backward.backward_weight', MATRICES],
  ['fused_conv2d_backward.backward_output', MATRICES],
  ['head.forward', MATRICES],
  ['head.forward_eval', MATRICES],
]);

const started = performance.now();
const failures = [];
const fail = (message) => failures.push(message);
const sources = new Map();
const source = (shader) => {
  if (!sources.has(shader)) {
    sources.set(shader, readFileSync(new URL(`../../shaders/${shader}.wgsl`, import.meta.url), 'utf8'));
  }
  return sources.get(shader);
};

const plans = process.argv.slice(2).flatMap((path) => Object.values(JSON.parse(readFileSync(path, 'utf8'))));
const pipelines = new Map();
for (const plan of plans) {
  for (const launch of plan.launches) {
    const { shader, entry_point, constants } = launch;
    pipelines.set(JSON.stringify([shader, entry_point, constants]), { plan, launch });
  }
}
if (pipelines.size === 0) {
  throw new Error('no pipelines: give the JSON files that examples/plan_json.rs prints');
}

// Part 1: Tint, with WebGPU's default limits.

let gpu = create([]);
const adapter = await gpu.requestAdapter();
if (!adapter) {
  throw new Error('Dawn finds no adapter: set VK_DRIVER_FILES as run.sh does');
}
const device = await adapter.requestDevice(); // no required limits: the defaults
console.log(`Dawn on ${adapter.info.description || adapter.info.device}`);

// Runs `make` and returns the errors that it causes.
async function errorsOf(make) {
  device.pushErrorScope('validation');
  device.pushErrorScope('internal');
  const errors = [];
  try {
    await make();
  } catch (error) {
    errors.push(error.message);
  }
  for (let scope = 0; scope < 2; scope++) {
    const error = await device.popErrorScope();
    if (error) {
      errors.push(error.message);
    }
  }
  return errors;
}

async function compile(code) {
  let module;
  const messages = await errorsOf(async () => {
    module = device.createShaderModule({ code });
    const info = await module.getCompilationInfo();
    for (const { type, lineNum, message } of info.messages) {
      throw new Error(`${type} in line ${lineNum}: ${message}`);
    }
  });
  return { module, messages };
}

// With the layout given by the plan: binding numbers and access of every buffer.
function pipelineErrors(module, { entry_point, bindings }, constants) {
  return errorsOf(async () => {
    const entries = bindings.map(({ index, writable }) => ({
      binding: index,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: writable ? 'storage' : 'read-only-storage' },
    }));
    const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
    await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: entry_point, constants } });
  });
}

const modules = new Map();
let accepted = 0;
for (const { launch } of pipelines.values()) {
  const { shader, label, constants, workgroups } = launch;
  if (!modules.has(shader)) {
    const { module, messages } = await compile(source(shader));
    messages.forEach((message) => fail(`Tint: ${shader}.wgsl: ${message}`));
    modules.set(shader, module);
  }
  const errors = await pipelineErrors(modules.get(shader), launch, constants);
  errors.forEach((message) => fail(`Tint: ${label}: ${message}`));
  const fits = workgroups.every((count) => count <= device.limits.maxComputeWorkgroupsPerDimension);
  if (!fits) {
    fail(`${label}: ${workgroups} workgroups`);
  }
  accepted += errors.length === 0 && fits ? 1 : 0;
}

// Controls: what must be rejected.
let controls = 0;
function control(caught, what) {
  controls += 1;
  if (!caught) {
    fail(`control: ${what} was not caught`);
  }
}
const nonUniform = `@group(0) @binding(0) var<storage, read_write> values: array<u32>;
  @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) local: u32) {
    if (values[local] > 3u) { workgroupBarrier(); }
  }`;
const { messages } = await compile(nonUniform);
control(messages.some((message) => /uniform/.test(message)), 'a barrier in non-uniform control flow');
{
  const { launch } = [...pipelines.values()].find(({ launch }) => launch.entry_point === 'metrics');
  const { QUADS, ...rest } = launch.constants;
  const module = modules.get(launch.shader);
  control((await pipelineErrors(module, launch, rest)).length > 0, 'a forgotten constant');
  const readOnly = launch.bindings.map((bound) => ({ ...bound, writable: false }));
  const wrong = { ...launch, bindings: readOnly };
  control((await pipelineErrors(module, wrong, launch.constants)).length > 0, 'a wrong access of a buffer');
}
device.destroy();
gpu = null;

// Part 2: races between the invocations of a workgroup.

// wgsl_reflect executes a loop as one step and misses the barriers in it, so trees are unrolled. It passes the id of
// the workgroup's last invocation to linear_index(id, groups) in all invocations, so that function is inlined.
const TREE = / {4}for \(var half = 32u; half > 0u; half \/= 2u\) \{\n([^]*?)\n {4}\}\n/g;

// WGSL with constants instead of the overrides.
function specialised(shader, constants) {
  return source(shader)
    .replace(/^override (\w+): (\w+)( = [^;]+)?;/gm, (_, name, type, value) => {
      const given = constants[name];
      if (given === undefined) {
        return `const ${name}: ${type}${value ?? ` = ${type}()`};`; // without a value: for another entry point
      }
      const literal = { u32: `${given}u`, f32: `f32(${given})`, bool: `${given !== 0}` }[type];
      return `const ${name}: ${type} = ${literal};`;
    })
    .replaceAll('= linear_index(id, groups)', '= id.x + id.y * groups.x * 64u')
    .replace(TREE, (_, body) => [32, 16, 8, 4, 2, 1].map((half) => body.replace(/\bhalf\b/g, `${half}u`) + '\n').join(''));
}

// Runs the first workgroups of a launch: races, errors, and whether it wrote anything.
function race(code, { plan, launch }) {
  const buffers = {};
  for (const { index, tensor } of launch.bindings) {
    const { name, bytes } = plan.tensors[tensor];
    const declared = code.match(new RegExp(`@binding\\(${index}\\) var<[^>]+> \\w+: array<(?:vec\\d<)?(\\w+)`))[1];
    const values = declared === 'u32' ? new Uint32Array(bytes / 4) : new Float32Array(bytes / 4).fill(0.3 + index / 8);
    if (name === 'state') {
      for (const [word, value] of [['next_step', 1], ['this_step', 0], ['step_images', plan.batch_size]]) {
        const { place } = plan.tensors.find((tensor) => tensor.name === `state.${word}`);
        values[place.Kept.offset / 4] = value;
      }
    }
    buffers[index] = values;
  }
  const before = launch.bindings.map(({ index }) => Buffer.from(buffers[index].slice().buffer));
  const grid = launch.workgroups.map((count) => Math.min(count, 2));
  const { races, errors } = detectRaces(code, launch.entry_point, grid, { 0: buffers });
  const wrote = launch.bindings.some(
    ({ index, written }, i) => written && !before[i].equals(Buffer.from(buffers[index].buffer)),
  );
  return { races, errors, wrote };
}

const entryPoints = new Map(); // 'shader.entry_point': its pipelines
for (const pipeline of pipelines.values()) {
  const name = `${pipeline.launch.shader}.${pipeline.launch.entry_point}`;
  entryPoints.set(name, [...(entryPoints.get(name) ?? []), pipeline]);
}
const size = ({ plan, launch }) => launch.bindings.reduce((sum, { tensor }) => sum + plan.tensors[tensor].bytes, 0);
let free = 0;
for (const [name, uses] of entryPoints) {
  if (NOT_RUN.has(name)) {
    continue;
  }
  const begun = performance.now();
  uses.sort((a, b) => size(a) - size(b));
  const { shader, entry_point } = uses[0].launch;
  const text = source(shader).split(`\nfn ${entry_point}(`)[1].split('\n}\n')[0];
  const barriers = text.includes('workgroupBarrier');
  let good = true;
  // Kernels with barriers at every size, the others at their smallest.
  for (const use of barriers ? uses : uses.slice(0, 1)) {
    const code = specialised(shader, use.launch.constants);
    const found = [];
    try {
      const { races, errors, wrote } = race(code, use);
      found.push(...races.map(({ message }) => message), ...errors, ...(wrote ? [] : ['it wrote nothing']));
    } catch (error) {
      found.push(`wgsl_reflect cannot run it: ${error.message ?? error}`);
    }
    if (found.length > 0) {
      fail(`races: ${use.launch.label}: ${found[0]} (${found.length} findings)`);
      good = false;
    }
  }
  free += good ? 1 : 0;
  if (barriers) {
    // Control: with any one of its barriers removed, a kernel has a race.
    const use = uses.find(({ launch }) => launch.constants.SUM_LANES === 64) ?? uses[0]; // 1: no tree
    const parts = specialised(shader, use.launch.constants).split(`\nfn ${entry_point}(`);
    const pieces = parts[1].split('workgroupBarrier();');
    const end = pieces.findIndex((piece) => piece.includes('\n}\n'));
    if (end !== 6) {
      fail(`races: ${name}: its tree is not the one that this script unrolls`);
    }
    for (let gone = 0; gone < end; gone++) {
      const kept = pieces.reduce((text, piece, i) => text + (i === gone + 1 ? '' : 'workgroupBarrier();') + piece);
      const { races } = race(`${parts[0]}\nfn ${entry_point}(${kept}`, use);
      control(races.length > 0, `${name} without barrier ${gone + 1}`);
    }
  }
  if (process.env.VERBOSE) {
    console.log(`${name}: ${Math.round(performance.now() - begun)} ms`);
  }
}
for (const name of NOT_RUN.keys()) {
  if (!entryPoints.has(name)) {
    fail(`${name} is in NOT_RUN and does not exist`);
  }
}

failures.forEach((message) => console.error(`FAILED ${message}`));
console.log(`not run by wgsl_reflect: ${NOT_RUN.size} of ${entryPoints.size} entry points`);
console.log(`${controls} controls, ${((performance.now() - started) / 1000).toFixed(1)} s`);
if (failures.length > 0) {
  console.log(`portability: ${failures.length} failures`);
  process.exit(1);
}
console.log(
  `portability: ${accepted} pipelines accepted by Tint, ${free} entry points free of races, controls caught`,
);
