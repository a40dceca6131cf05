// 2-D convolution as deep learning means it (cross-correlation), in groups of channels that do not see each other:
//   output[n,o,y,x] = bias[o] + Σ c,i,j  weight[o,c,i,j] · input[n, group(o)+c, y·STRIDE+i−PADDING, x·STRIDE+j−PADDING]
// Activations are [replica, quad, channel, row, column] of vec4s: a vec4 holds the same value of four images.
// Weights are [replica, o, c, i, j]. One invocation makes PIXELS neighbouring values of CHANNELS maps.

override QUADS: u32;
override IN_CHANNELS: u32;
override IN_HEIGHT: u32;
override IN_WIDTH: u32;
override OUT_CHANNELS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override KERNEL: u32;
override STRIDE: u32;
override PADDING: u32;
override GROUPS: u32;
override HAS_BIAS: bool;
// Rows of the output whose share of the weight gradient one invocation of `weight_parts` sums.
override PART_ROWS: u32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> parts: array<f32>;
@group(0) @binding(7) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(8) var<storage, read_write> grad_bias: array<f32>;

const PIXELS = 4u;
const CHANNELS = 4u;
const TILE = 16u; // PIXELS · CHANNELS
// A tile of the weight gradient: output channels by columns, a column being a (c, i, j) of the kernel.
const GRAD_CHANNELS = 8u;
const GRAD_COLUMNS = 9u;
const GRAD_TILE = 72u; // GRAD_CHANNELS · GRAD_COLUMNS

override GROUP_IN: u32 = IN_CHANNELS / GROUPS;
override GROUP_OUT: u32 = OUT_CHANNELS / GROUPS;
override COLUMNS: u32 = GROUP_IN * KERNEL * KERNEL;
override WEIGHTS: u32 = OUT_CHANNELS * COLUMNS;
override ROW_PARTS: u32 = (OUT_HEIGHT + PART_ROWS - 1u) / PART_ROWS;
override PARTS: u32 = QUADS * ROW_PARTS;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let strips = (OUT_WIDTH + PIXELS - 1u) / PIXELS;
    let group_tiles = (GROUP_OUT + CHANNELS - 1u) / CHANNELS;
    let index = linear_index(id, groups);
    if (index >= strips * OUT_HEIGHT * QUADS * group_tiles * GROUPS) {
        return;
    }
    let x = index % strips * PIXELS;
    let y = index / strips % OUT_HEIGHT;
    let quad = index / (strips * OUT_HEIGHT) % QUADS;
    let tile = index / (strips * OUT_HEIGHT * QUADS);
    let group = tile / group_tiles;
    let within = tile % group_tiles * CHANNELS; // first channel of the tile within its group
    let first = group * GROUP_OUT + within;

    var sums: array<vec4<f32>, TILE>;
    for (var t = 0u; t < CHANNELS; t++) {
        var start = 0.0;
        if (HAS_BIAS) {
            start = bias[id.z * OUT_CHANNELS + min(first + t, OUT_CHANNELS - 1u)];
        }
        for (var p = 0u; p < PIXELS; p++) {
            sums[p * CHANNELS + t] = vec4(start);
        }
    }
    for (var c = 0u; c < GROUP_IN; c++) {
        let map = ((id.z * QUADS + quad) * IN_CHANNELS + group * GROUP_IN + c) * IN_HEIGHT;
        for (var i = 0u; i < KERNEL; i++) {
            let row = y * STRIDE + i;
            if (PADDING > 0u && (row < PADDING || row >= IN_HEIGHT + PADDING)) {
                continue;
            }
            let row_start = (map + row - PADDING) * IN_WIDTH;
            for (var j = 0u; j < KERNEL; j++) {
                for (var p = 0u; p < PIXELS; p++) {
                    let column = (x + p) * STRIDE + j;
                    // Columns outside are read at a clamped place, so that the load needs no branch.
                    let inside = column >= PADDING && column < IN_WIDTH + PADDING;
                    let clamped = min(max(column, PADDING) - PADDING, IN_WIDTH - 1u);
                    let value = select(vec4(0.0), input[row_start + clamped], inside);
                    for (var t = 0u; t < CHANNELS; t++) {
                        let o = group * GROUP_OUT + min(within + t, GROUP_OUT - 1u);
                        let tap = ((id.z * OUT_CHANNELS + o) * GROUP_IN + c) * KERNEL * KERNEL + i * KERNEL + j;
                        sums[p * CHANNELS + t] += value * weight[tap];
                    }
                }
            }
        }
    }
    for (var t = 0u; t < CHANNELS; t++) {
        for (var p = 0u; p < PIXELS; p++) {
            if (within + t < GROUP_OUT && x + p < OUT_WIDTH) {
                let map = ((id.z * QUADS + quad) * OUT_CHANNELS + first + t) * OUT_HEIGHT + y;
                output[map * OUT_WIDTH + x + p] = sums[p * CHANNELS + t];
            }
        }
    }
}

// grad_input[n,c,y,x] = Σ o,i,j  weight[o,c,i,j] · grad_output[n,o,(y+PADDING−i)/STRIDE,(x+PADDING−j)/STRIDE],
// over the o of c's group and the i, j for which both divisions have no remainder and land inside.
@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let strips = (IN_WIDTH + PIXELS - 1u) / PIXELS;
    let group_tiles = (GROUP_IN + CHANNELS - 1u) / CHANNELS;
    let index = linear_index(id, groups);
    if (index >= strips * IN_HEIGHT * QUADS * group_tiles * GROUPS) {
        return;
    }
    let x = index % strips * PIXELS;
    let y = index / strips % IN_HEIGHT;
    let quad = index / (strips * IN_HEIGHT) % QUADS;
    let tile = index / (strips * IN_HEIGHT * QUADS);
    let group = tile / group_tiles;
    let within = tile % group_tiles * CHANNELS;
    let first = group * GROUP_IN + within;

    var sums: array<vec4<f32>, TILE>;
    for (var o = 0u; o < GROUP_OUT; o++) {
        let out_channel = group * GROUP_OUT + o;
        let map = ((id.z * QUADS + quad) * OUT_CHANNELS + out_channel) * OUT_HEIGHT;
        for (var i = 0u; i < KERNEL; i++) {
            // Wraps to a huge number where y + PADDING < i, and is then outside.
            let row = y + PADDING - i;
            if (row % STRIDE != 0u || row / STRIDE >= OUT_HEIGHT) {
                continue;
            }
            let row_start = (map + row / STRIDE) * OUT_WIDTH;
            for (var j = 0u; j < KERNEL; j++) {
                for (var p = 0u; p < PIXELS; p++) {
                    let column = x + p + PADDING - j;
                    let inside = column % STRIDE == 0u && column / STRIDE < OUT_WIDTH;
                    let clamped = min(column / STRIDE, OUT_WIDTH - 1u);
                    let value = select(vec4(0.0), grad_output[row_start + clamped], inside);
                    for (var t = 0u; t < CHANNELS; t++) {
                        let c = min(within + t, GROUP_IN - 1u);
                        let tap = ((id.z * OUT_CHANNELS + out_channel) * GROUP_IN + c) * KERNEL * KERNEL;
                        sums[p * CHANNELS + t] += value * weight[tap + i * KERNEL + j];
                    }
                }
            }
        }
    }
    for (var t = 0u; t < CHANNELS; t++) {
        for (var p = 0u; p < PIXELS; p++) {
            if (within + t < GROUP_IN && x + p < IN_WIDTH) {
                let map = ((id.z * QUADS + quad) * IN_CHANNELS + first + t) * IN_HEIGHT + y;
                grad_input[map * IN_WIDTH + x + p] = sums[p * CHANNELS + t];
            }
        }
    }
}

// grad_weight[o,c,i,j] = Σ n,y,x  grad_output[n,o,y,x] · input[n, group(o)+c, y·STRIDE+i−PADDING, x·STRIDE+j−PADDING]
// and grad_bias[o] = Σ n,y,x  grad_output[n,o,y,x], in two stages: each part sums PART_ROWS rows of a quad of images,
// then `sum_weight_parts` and `sum_bias_parts` add the parts in order.
// parts is [replica, part, WEIGHTS + OUT_CHANNELS].
@compute @workgroup_size(64)
fn weight_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_tiles = (GROUP_OUT + GRAD_CHANNELS - 1u) / GRAD_CHANNELS;
    let column_tiles = (COLUMNS + GRAD_COLUMNS - 1u) / GRAD_COLUMNS;
    let index = linear_index(id, groups);
    if (index >= PARTS * column_tiles * group_tiles * GROUPS) {
        return;
    }
    let part = index % PARTS;
    let quad = part / ROW_PARTS;
    let first_row = part % ROW_PARTS * PART_ROWS;
    let first_column = index / PARTS % column_tiles * GRAD_COLUMNS;
    let tile = index / (PARTS * column_tiles);
    let group = tile / group_tiles;
    let within = tile % group_tiles * GRAD_CHANNELS;
    let first = group * GROUP_OUT + within;

    var sums: array<f32, GRAD_TILE>;
    var bias_sums: array<f32, GRAD_CHANNELS>;
    let in_map = (id.z * QUADS + quad) * IN_CHANNELS + group * GROUP_IN;
    let out_map = (id.z * QUADS + quad) * OUT_CHANNELS + group * GROUP_OUT;
    for (var y = first_row; y < min(first_row + PART_ROWS, OUT_HEIGHT); y++) {
        for (var x = 0u; x < OUT_WIDTH; x++) {
            var upstream: array<vec4<f32>, GRAD_CHANNELS>;
            for (var t = 0u; t < GRAD_CHANNELS; t++) {
                let o = min(within + t, GROUP_OUT - 1u);
                upstream[t] = grad_output[((out_map + o) * OUT_HEIGHT + y) * OUT_WIDTH + x];
                if (HAS_BIAS) {
                    bias_sums[t] += dot(upstream[t], vec4(1.0));
                }
            }
            for (var k = 0u; k < GRAD_COLUMNS; k++) {
                let tap = min(first_column + k, COLUMNS - 1u);
                let c = tap / (KERNEL * KERNEL);
                let row = y * STRIDE + tap / KERNEL % KERNEL;
                let column = x * STRIDE + tap % KERNEL;
                let inside = row >= PADDING && row < IN_HEIGHT + PADDING
                    && column >= PADDING && column < IN_WIDTH + PADDING;
                let clamped_row = min(max(row, PADDING) - PADDING, IN_HEIGHT - 1u);
                let clamped_column = min(max(column, PADDING) - PADDING, IN_WIDTH - 1u);
                let at = ((in_map + c) * IN_HEIGHT + clamped_row) * IN_WIDTH + clamped_column;
                let value = select(vec4(0.0), input[at], inside);
                for (var t = 0u; t < GRAD_CHANNELS; t++) {
                    sums[t * GRAD_COLUMNS + k] += dot(upstream[t], value);
                }
            }
        }
    }
    let start = (id.z * PARTS + part) * (WEIGHTS + OUT_CHANNELS);
    for (var t = 0u; t < GRAD_CHANNELS; t++) {
        if (within + t < GROUP_OUT) {
            for (var k = 0u; k < GRAD_COLUMNS; k++) {
                if (first_column + k < COLUMNS) {
                    parts[start + (first + t) * COLUMNS + first_column + k] = sums[t * GRAD_COLUMNS + k];
                }
            }
            if (HAS_BIAS && first_column == 0u) {
                parts[start + WEIGHTS + first + t] = bias_sums[t];
            }
        }
    }
}

@compute @workgroup_size(64)
fn sum_weight_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= WEIGHTS) {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        sum += parts[(id.z * PARTS + part) * (WEIGHTS + OUT_CHANNELS) + index];
    }
    grad_weight[id.z * WEIGHTS + index] = sum;
}

@compute @workgroup_size(64)
fn sum_bias_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= OUT_CHANNELS) {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        sum += parts[(id.z * PARTS + part) * (WEIGHTS + OUT_CHANNELS) + WEIGHTS + index];
    }
    grad_bias[id.z * OUT_CHANNELS + index] = sum;
}
