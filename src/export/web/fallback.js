'use strict';
// The network in plain JavaScript, for use without WebGPU: evaluation of each layer as src/layers defines it.

/** @typedef {[channels: number, height: number, width: number]} Shape */

/**
 * A layer of the network: `sources` are the indices of the layers that it reads, -1 for the image; `op` is what it computes,
 * with its sizes, as in `Op` in src/layers. `params` holds the parameters, its own or those of `weights_of`, and running
 * statistics by name.
 * @typedef {{
 *   name: string, weights_of: string | null, sources: number[], output: Shape, op: { type: string } & Record<string, any>,
 *   params: Record<string, Float32Array>,
 * }} Layer
 */

/**
 * The logits of an image.
 * @param {Model} model
 * @param {Uint8Array} pixels [channel][row][column]
 * @returns {Float32Array} one per class
 */
function evaluate(model, pixels) {
  const [, height, width] = model.input;
  const image = Float32Array.from(pixels, (pixel, at) => {
    const channel = Math.floor(at / (height * width));
    return pixel * model.pixel_scale[channel] + model.pixel_offset[channel];
  });
  /** @type {Float32Array[]} */
  const made = [];
  for (const layer of model.layers) {
    const [input, ...others] = layer.sources.map((source) => made[source] ?? image);
    made.push(FORWARD[layer.op.type](input, layer, others));
  }
  return made[made.length - 1];
}

/** @type {Record<string, (input: Float32Array, layer: Layer, others: Float32Array[]) => Float32Array>} */
const FORWARD = {
  activation: activated,
  add: (input, _, others) => input.map((value, at) => others.reduce((sum, other) => sum + other[at], value)),
  avg_pool2d: averages,
  batch_norm2d: batchNorm,
  concat: (input, { output: [channels, height, width] }, others) => {
    const joined = new Float32Array(channels * height * width);
    let first = 0;
    for (const part of [input, ...others]) {
      joined.set(part, first);
      first += part.length;
    }
    return joined;
  },
  conv2d: convolution,
  dropout: (input) => input,
  group_norm: groupNorm,
  max_pool2d: (input, { op }) => pooling(input, op, -Infinity, Math.max),
  multiply: (input, { output: [channels, height, width] }, [other]) => {
    const product = new Float32Array(channels * height * width);
    // A gate has one value per map.
    const [map, otherMap] = [product.length / input.length, product.length / other.length];
    return product.map((_, at) => input[Math.floor(at / map)] * other[Math.floor(at / otherMap)]);
  },
  reshape: (input) => input,
};

/**
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function activated(input, { output: [channels, height, width], op, params }) {
  const slopes = params.weight ?? [op.slope];
  return input.map((value, at) => {
    const channel = Math.floor(at / (height * width)) % channels;
    return ACTIVATIONS[op.function](value, slopes[channel % slopes.length]);
  });
}

/** @param {number} x @param {number} slope */
const rectified = (x, slope) => (x > 0 ? x : slope * x);
/** @param {number} x */
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
/** @param {number} x */
const hardSigmoid = (x) => Math.min(Math.max(x + 3, 0), 6) / 6;

/**
 * x · Φ(x), with the polynomial of shaders/activation.wgsl.
 * @param {number} x
 */
function gelu(x) {
  const size = Math.abs(x);
  const inverse = 1 / (1 + 0.27 * size);
  const polynomial = [
    1.12950307e-4, 8.27669428e-5, -1.09679846e-3, 6.61874365e-4, 9.05170664e-3, -3.91416959e-2, 9.34871584e-2,
    -1.57742858e-1, 2.02305079e-1,
  ].reduce((sum, coefficient) => sum * (1 - 2 * inverse) + coefficient);
  return Math.max(x, 0) - size * Math.exp(-0.5 * size * size) * inverse * polynomial;
}

/** @type {Record<string, (x: number, slope: number) => number>} */
const ACTIVATIONS = {
  gelu: gelu,
  hard_sigmoid: hardSigmoid,
  hard_swish: (x) => x * hardSigmoid(x),
  leaky_relu: rectified,
  prelu: rectified,
  relu6: (x) => Math.min(Math.max(x, 0), 6),
  sigmoid: sigmoid,
  silu: (x) => x * sigmoid(x),
  tanh: Math.tanh,
};

/**
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function batchNorm(input, { output: [, height, width], op, params }) {
  return input.map((value, at) => {
    const channel = Math.floor(at / (height * width));
    const scale = params.weight[channel] / Math.sqrt(params.running_var[channel] + op.eps);
    return (value - params.running_mean[channel]) * scale + params.bias[channel];
  });
}

/**
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function groupNorm(input, { output: [, height, width], op, params }) {
  const size = input.length / op.groups;
  const output = new Float32Array(input.length);
  for (let start = 0; start < input.length; start += size) {
    const group = input.subarray(start, start + size);
    const mean = group.reduce((sum, value) => sum + value, 0) / size;
    const variance = group.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size;
    group.forEach((value, at) => {
      const channel = Math.floor((start + at) / (height * width));
      const scale = params.weight[channel] / Math.sqrt(variance + op.eps);
      output[start + at] = (value - mean) * scale + params.bias[channel];
    });
  }
  return output;
}

/**
 * Weight is [out_channels, channels per group, kernel height, kernel width].
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function convolution(input, { op, params }) {
  const { stride, groups } = op;
  const [[kernelHeight, kernelWidth], [top, , left], [down, across]] = [op.kernel, op.padding, op.dilation];
  const [[channels, height, width], [outChannels, outHeight, outWidth]] = [op.input, op.output];
  const [groupIn, groupOut] = [channels / groups, outChannels / groups];
  const output = new Float32Array(outChannels * outHeight * outWidth);
  let at = 0;
  for (let o = 0; o < outChannels; o++) {
    const firstChannel = Math.floor(o / groupOut) * groupIn;
    for (let y = 0; y < outHeight; y++) {
      for (let x = 0; x < outWidth; x++) {
        let sum = params.bias ? params.bias[o] : 0;
        for (let c = 0; c < groupIn; c++) {
          for (let i = 0; i < kernelHeight; i++) {
            const row = y * stride + i * down - top;
            if (row < 0 || row >= height) {
              continue;
            }
            const from = ((firstChannel + c) * height + row) * width;
            const weight = ((o * groupIn + c) * kernelHeight + i) * kernelWidth;
            for (let j = 0; j < kernelWidth; j++) {
              const column = x * stride + j * across - left;
              if (column >= 0 && column < width) {
                sum += params.weight[weight + j] * input[from + column];
              }
            }
          }
        }
        output[at++] = sum;
      }
    }
  }
  return output;
}

/**
 * Means over windows. Padding counts as zeros.
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function averages(input, { op }) {
  const sums = pooling(input, op, 0, (sum, value) => sum + value);
  return sums.map((sum) => sum / (op.kernel[0] * op.kernel[1]));
}

/**
 * The windows of each map, folded by `join`; without padding.
 * @param {Float32Array} input
 * @param {Record<string, any>} op
 * @param {number} start
 * @param {(folded: number, value: number) => number} join
 */
function pooling(input, { input: [channels, height, width], output, kernel, stride, padding }, start, join) {
  const [, outHeight, outWidth] = output;
  const pooled = new Float32Array(channels * outHeight * outWidth);
  for (let at = 0; at < pooled.length; at++) {
    const channel = Math.floor(at / (outHeight * outWidth));
    const top = (Math.floor(at / outWidth) % outHeight) * stride[0] - padding;
    const left = (at % outWidth) * stride[1] - padding;
    let folded = start;
    for (let y = Math.max(top, 0); y < Math.min(top + kernel[0], height); y++) {
      for (let x = Math.max(left, 0); x < Math.min(left + kernel[1], width); x++) {
        folded = join(folded, input[(channel * height + y) * width + x]);
      }
    }
    pooled[at] = folded;
  }
  return pooled;
}
