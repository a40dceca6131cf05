'use strict';
// The network in plain JavaScript, for where there is no WebGPU: evaluation of each layer as src/layers defines it.

/** @typedef {[channels: number, height: number, width: number]} Shape */

/**
 * A layer of the model file. `params` holds the parameters, its own or those of `weights_of`, and running statistics by name.
 * @typedef {{
 *   name: string, kind: string, weights_of: string | null, input: Shape, output: Shape, keys: Record<string, any>,
 *   params: Record<string, Float32Array>,
 * }} Layer
 */

/**
 * The logits of an image.
 * @param {Model} model
 * @param {Uint8Array} pixels [channel][row][column]
 * @returns {Float32Array} one for each class
 */
function evaluate(model, pixels) {
  const input = Float32Array.from(pixels, (pixel) => pixel * model.pixel_scale + model.pixel_offset);
  /** @param {Float32Array} values @param {Layer} layer */
  const forward = (values, layer) => FORWARD[layer.kind](values, layer);
  return model.layers.reduce(forward, input);
}

/** @type {Record<string, (input: Float32Array, layer: Layer) => Float32Array>} */
const FORWARD = {
  avg_pool2d: (input, layer) => averages(input, layer, [layer.keys.kernel, layer.keys.kernel]),
  batch_norm2d: batchNorm,
  conv2d: convolution,
  dropout: (input) => input,
  flatten: (input) => input,
  global_avg_pool2d: (input, layer) => averages(input, layer, [layer.input[1], layer.input[2]]),
  leaky_relu: (input, layer) => rectifier(input, layer.keys.negative_slope),
  linear: (input, layer) => convolution(input, { ...layer, keys: { kernel: 1, stride: 1, padding: 0, groups: 1 } }),
  max_pool2d: (input, layer) => pooling(input, layer, [layer.keys.kernel, layer.keys.kernel], -Infinity, Math.max),
  relu: (input) => rectifier(input, 0),
};

/**
 * @param {Float32Array} input
 * @param {number} slope
 */
function rectifier(input, slope) {
  return input.map((value) => (value > 0 ? value : slope * value));
}

/**
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function batchNorm(input, { input: [, height, width], keys, params }) {
  return input.map((value, at) => {
    const channel = Math.floor(at / (height * width));
    const scale = params.weight[channel] / Math.sqrt(params.running_var[channel] + keys.eps);
    return (value - params.running_mean[channel]) * scale + params.bias[channel];
  });
}

/**
 * Weight is [out_channels, channels of a group, kernel, kernel].
 * @param {Float32Array} input
 * @param {Layer} layer
 */
function convolution(input, { input: [channels, height, width], output: shape, keys, params }) {
  const { kernel, stride, padding, groups } = keys;
  const [outChannels, outHeight, outWidth] = shape;
  const [groupIn, groupOut] = [channels / groups, outChannels / groups];
  const output = new Float32Array(outChannels * outHeight * outWidth);
  let at = 0;
  for (let o = 0; o < outChannels; o++) {
    const firstChannel = Math.floor(o / groupOut) * groupIn;
    for (let y = 0; y < outHeight; y++) {
      for (let x = 0; x < outWidth; x++) {
        let sum = params.bias ? params.bias[o] : 0;
        for (let c = 0; c < groupIn; c++) {
          for (let i = 0; i < kernel; i++) {
            const row = y * stride + i - padding;
            if (row < 0 || row >= height) {
              continue;
            }
            const from = ((firstChannel + c) * height + row) * width;
            const weight = ((o * groupIn + c) * kernel + i) * kernel;
            for (let j = 0; j < kernel; j++) {
              const column = x * stride + j - padding;
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
 * @param {[height: number, width: number]} window
 */
function averages(input, layer, window) {
  const sums = pooling(input, layer, window, 0, (sum, value) => sum + value);
  return sums.map((sum) => sum / (window[0] * window[1]));
}

/**
 * The windows of each map, folded by `join`; padding is left out. Without `stride` the windows touch.
 * @param {Float32Array} input
 * @param {Layer} layer
 * @param {[height: number, width: number]} window
 * @param {number} start
 * @param {(folded: number, value: number) => number} join
 */
function pooling(input, { input: [channels, height, width], output: [, outHeight, outWidth], keys }, window, start, join) {
  const [strideHeight, strideWidth] = keys.stride ? [keys.stride, keys.stride] : window;
  const padding = keys.padding ?? 0;
  const output = new Float32Array(channels * outHeight * outWidth);
  for (let at = 0; at < output.length; at++) {
    const channel = Math.floor(at / (outHeight * outWidth));
    const top = (Math.floor(at / outWidth) % outHeight) * strideHeight - padding;
    const left = (at % outWidth) * strideWidth - padding;
    let folded = start;
    for (let y = Math.max(top, 0); y < Math.min(top + window[0], height); y++) {
      for (let x = Math.max(left, 0); x < Math.min(left + window[1], width); x++) {
        folded = join(folded, input[(channel * height + y) * width + x]);
      }
    }
    output[at] = folded;
  }
  return output;
}
