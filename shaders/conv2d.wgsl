// 2-D convolution in the deep-learning sense (cross-correlation), in groups of channels independent of each other:
//   output[n,o,y,x] = bias[o] + Σ c,i,j  weight[o,c,i,j] · input[n, group(o)+c, row(y,i), column(x,j)], with
//   row(y,i) = y·STRIDE + i·DILATION_HEIGHT − PADDING_TOP and column(x,j) = x·STRIDE + j·DILATION_WIDTH − PADDING_LEFT.
// Activations are [replica, quad, channel, row, column] of vec4s: a vec4 holds the same value of four images.
// Weights are [replica, o, c, i, j]. One invocation makes STRIP adjacent values of CHANNELS maps: each value that it
// loads is used for several sums, held in registers.

override QUADS: u32;
override IN_CHANNELS: u32;
override IN_HEIGHT: u32;
override IN_WIDTH: u32;
override OUT_CHANNELS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override KERNEL_HEIGHT: u32;
override KERNEL_WIDTH: u32;
override STRIDE: u32;
override PADDING_TOP: u32;
override PADDING_LEFT: u32;
override DILATION_HEIGHT: u32;
override DILATION_WIDTH: u32;
override GROUPS: u32;
override HAS_BIAS: bool;
// One invocation of `forward` makes STRIP adjacent pixels of CHANNELS maps; one of `backward_input` BACKWARD_STRIP
// pixels of CHANNELS maps. At most TILE values in all. Each loads what TAPS adjacent taps of a kernel row need, at
// most ROW values, before it moves on to the next taps; TAPS divides KERNEL_WIDTH.
override CHANNELS: u32;
override STRIP: u32;
override BACKWARD_STRIP: u32;
override TAPS: u32;
// Rows of the output over which one invocation of `weight_parts` sums the weight gradient.
override PART_ROWS: u32;
// One invocation of `weight_parts` makes GRAD_CHANNELS maps of a tile, at most 8.
override GRAD_CHANNELS: u32;
// Invocations that share one sum over the parts: a power of two, at most 64.
override SUM_LANES: u32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> parts: array<f32>;
@group(0) @binding(7) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(8) var<storage, read_write> grad_bias: array<f32>;

const TILE = 16u;
const ROW = 16u; // values of a row that an invocation holds
// A tile of the weight gradient: output channels by columns, a column being a (c, i, j) of the kernel.
const MOST_GRAD_CHANNELS = 8u;
const GRAD_COLUMNS = 9u;
const GRAD_TILE = 72u; // MOST_GRAD_CHANNELS · GRAD_COLUMNS

override GROUP_IN: u32 = IN_CHANNELS / GROUPS;
override GROUP_OUT: u32 = OUT_CHANNELS / GROUPS;
override COLUMNS: u32 = GROUP_IN * KERNEL_HEIGHT * KERNEL_WIDTH;
override WEIGHTS: u32 = OUT_CHANNELS * COLUMNS;
override ROW_PARTS: u32 = (OUT_HEIGHT + PART_ROWS - 1u) / PART_ROWS;
override PARTS: u32 = QUADS * ROW_PARTS;
// Columns from the first of TAPS taps to the last.
override SPAN: u32 = (TAPS - 1u) * DILATION_WIDTH;
// A column's value for one pixel is its right neighbour's for the previous pixel: it then moves from register to register.
override SLIDES: bool = STRIDE == 1u && DILATION_WIDTH == 1u && GRAD_COLUMNS % KERNEL_WIDTH == 0u;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

// The input at a row and column counted from the edge of the padding. Outside, it loads from a clamped position and
// discards the value: cheaper than a branch.
fn padded_input(map: u32, row: u32, column: u32) -> vec4<f32> {
    let row_inside = row >= PADDING_TOP && row < IN_HEIGHT + PADDING_TOP;
    let inside = row_inside && column >= PADDING_LEFT && column < IN_WIDTH + PADDING_LEFT;
    let clamped_row = min(max(row, PADDING_TOP) - PADDING_TOP, IN_HEIGHT - 1u);
    let clamped_column = min(max(column, PADDING_LEFT) - PADDING_LEFT, IN_WIDTH - 1u);
    return select(vec4(0.0), input[(map * IN_HEIGHT + clamped_row) * IN_WIDTH + clamped_column], inside);
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let strips = (OUT_WIDTH + STRIP - 1u) / STRIP;
    let group_tiles = (GROUP_OUT + CHANNELS - 1u) / CHANNELS;
    let index = linear_index(id, groups);
    if (index >= strips * OUT_HEIGHT * QUADS * group_tiles * GROUPS) {
        return;
    }
    let x = index % strips * STRIP;
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
        for (var p = 0u; p < STRIP; p++) {
            sums[p * CHANNELS + t] = vec4(start);
        }
    }
    for (var c = 0u; c < GROUP_IN; c++) {
        let map = (id.z * QUADS + quad) * IN_CHANNELS + group * GROUP_IN + c;
        for (var i = 0u; i < KERNEL_HEIGHT; i++) {
            for (var left = 0u; left < KERNEL_WIDTH; left += TAPS) {
                // row[q] is what tap left + j of pixel x + p reads, for q = p · STRIDE + j · DILATION_WIDTH.
                var row: array<vec4<f32>, ROW>;
                for (var q = 0u; q < (STRIP - 1u) * STRIDE + SPAN + 1u; q++) {
                    row[q] = padded_input(map, y * STRIDE + i * DILATION_HEIGHT, x * STRIDE + left * DILATION_WIDTH + q);
                }
                for (var t = 0u; t < CHANNELS; t++) {
                    let o = group * GROUP_OUT + min(within + t, GROUP_OUT - 1u);
                    let taps = (((id.z * OUT_CHANNELS + o) * GROUP_IN + c) * KERNEL_HEIGHT + i) * KERNEL_WIDTH + left;
                    for (var j = 0u; j < TAPS; j++) {
                        let tap = weight[taps + j];
                        for (var p = 0u; p < STRIP; p++) {
                            sums[p * CHANNELS + t] += row[p * STRIDE + j * DILATION_WIDTH] * tap;
                        }
                    }
                }
            }
        }
    }
    for (var t = 0u; t < CHANNELS; t++) {
        for (var p = 0u; p < STRIP; p++) {
            if (within + t < GROUP_OUT && x + p < OUT_WIDTH) {
                let map = ((id.z * QUADS + quad) * OUT_CHANNELS + first + t) * OUT_HEIGHT + y;
                output[map * OUT_WIDTH + x + p] = sums[p * CHANNELS + t];
            }
        }
    }
}

// grad_input[n,c,y,x] = Σ o,i,j  weight[o,c,i,j] · grad_output[n, o, (y + PADDING_TOP − i·DILATION_HEIGHT) / STRIDE,
// (x + PADDING_LEFT − j·DILATION_WIDTH) / STRIDE], over the o of c's group and the i, j for which both divisions have no
// remainder and land inside.
@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let strips = (IN_WIDTH + BACKWARD_STRIP - 1u) / BACKWARD_STRIP;
    let group_tiles = (GROUP_IN + CHANNELS - 1u) / CHANNELS;
    let index = linear_index(id, groups);
    if (index >= strips * IN_HEIGHT * QUADS * group_tiles * GROUPS) {
        return;
    }
    let x = index % strips * BACKWARD_STRIP;
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
        for (var i = 0u; i < KERNEL_HEIGHT; i++) {
            // Wraps around to a huge number where it would be negative, which then counts as outside.
            let numerator_y = y + PADDING_TOP - i * DILATION_HEIGHT;
            let row_inside = numerator_y % STRIDE == 0u && numerator_y / STRIDE < OUT_HEIGHT;
            let row_start = (map + min(numerator_y / STRIDE, OUT_HEIGHT - 1u)) * OUT_WIDTH;
            for (var left = 0u; left < KERNEL_WIDTH; left += TAPS) {
                // row[q] is what tap left + j of pixel x + p reads, for q = p + SPAN − j · DILATION_WIDTH.
                var row: array<vec4<f32>, ROW>;
                for (var q = 0u; q < BACKWARD_STRIP + SPAN; q++) {
                    let numerator_x = x + q + PADDING_LEFT - left * DILATION_WIDTH - SPAN;
                    let inside = row_inside && numerator_x % STRIDE == 0u && numerator_x / STRIDE < OUT_WIDTH;
                    let upstream = grad_output[row_start + min(numerator_x / STRIDE, OUT_WIDTH - 1u)];
                    row[q] = select(vec4(0.0), upstream, inside);
                }
                for (var t = 0u; t < CHANNELS; t++) {
                    let c = min(within + t, GROUP_IN - 1u);
                    let filter_start = ((id.z * OUT_CHANNELS + out_channel) * GROUP_IN + c) * KERNEL_HEIGHT;
                    let taps = (filter_start + i) * KERNEL_WIDTH + left;
                    for (var j = 0u; j < TAPS; j++) {
                        let tap = weight[taps + j];
                        for (var p = 0u; p < BACKWARD_STRIP; p++) {
                            sums[p * CHANNELS + t] += row[p + SPAN - j * DILATION_WIDTH] * tap;
                        }
                    }
                }
            }
        }
    }
    for (var t = 0u; t < CHANNELS; t++) {
        for (var p = 0u; p < BACKWARD_STRIP; p++) {
            if (within + t < GROUP_IN && x + p < IN_WIDTH) {
                let map = ((id.z * QUADS + quad) * IN_CHANNELS + first + t) * IN_HEIGHT + y;
                grad_input[map * IN_WIDTH + x + p] = sums[p * CHANNELS + t];
            }
        }
    }
}

// grad_weight[o,c,i,j] = Σ n,y,x  grad_output[n,o,y,x] · input[n, group(o)+c, row(y,i), column(x,j)]
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

    // Map, row and column of each column's tap.
    var tap_map: array<u32, GRAD_COLUMNS>;
    var tap_row: array<u32, GRAD_COLUMNS>;
    var tap_column: array<u32, GRAD_COLUMNS>;
    for (var k = 0u; k < GRAD_COLUMNS; k++) {
        let column = min(first_column + k, COLUMNS - 1u);
        tap_map[k] = (id.z * QUADS + quad) * IN_CHANNELS + group * GROUP_IN + column / (KERNEL_HEIGHT * KERNEL_WIDTH);
        tap_row[k] = column / KERNEL_WIDTH % KERNEL_HEIGHT * DILATION_HEIGHT;
        tap_column[k] = column % KERNEL_WIDTH * DILATION_WIDTH;
    }
    var sums: array<f32, GRAD_TILE>;
    var bias_sums: array<f32, MOST_GRAD_CHANNELS>;
    let out_map = (id.z * QUADS + quad) * OUT_CHANNELS + group * GROUP_OUT;
    for (var y = first_row; y < min(first_row + PART_ROWS, OUT_HEIGHT); y++) {
        var values: array<vec4<f32>, GRAD_COLUMNS>;
        if (SLIDES) {
            for (var k = 0u; k < GRAD_COLUMNS; k++) {
                if (k % KERNEL_WIDTH > 0u) {
                    values[k] = padded_input(tap_map[k], y + tap_row[k], tap_column[k] - 1u);
                }
            }
        }
        for (var x = 0u; x < OUT_WIDTH; x++) {
            for (var k = 0u; k < GRAD_COLUMNS; k++) {
                if (SLIDES && k % KERNEL_WIDTH + 1u < KERNEL_WIDTH) {
                    values[k] = values[min(k + 1u, GRAD_COLUMNS - 1u)];
                } else {
                    values[k] = padded_input(tap_map[k], y * STRIDE + tap_row[k], x * STRIDE + tap_column[k]);
                }
            }
            for (var t = 0u; t < GRAD_CHANNELS; t++) {
                let o = min(within + t, GROUP_OUT - 1u);
                let upstream = grad_output[((out_map + o) * OUT_HEIGHT + y) * OUT_WIDTH + x];
                if (HAS_BIAS) {
                    bias_sums[t] += dot(upstream, vec4(1.0));
                }
                for (var k = 0u; k < GRAD_COLUMNS; k++) {
                    sums[t * GRAD_COLUMNS + k] += dot(upstream, values[k]);
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

var<workgroup> tree: array<f32, 64>;

// The share of invocation `lane` of SUM_LANES in the sum of element `index` over all parts.
fn sum_of_parts(replica: u32, index: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var part = lane; part < PARTS; part += SUM_LANES) {
        sum += parts[(replica * PARTS + part) * (WEIGHTS + OUT_CHANNELS) + index];
    }
    return sum;
}

@compute @workgroup_size(64)
fn sum_weight_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let invocation = linear_index(id, groups);
    let index = invocation / SUM_LANES;
    let lane = local % SUM_LANES;
    tree[local] = sum_of_parts(id.z, min(index, WEIGHTS - 1u), lane);
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (half < SUM_LANES && lane < half) {
            tree[local] += tree[local + half];
        }
    }
    if (index < WEIGHTS && lane == 0u) {
        grad_weight[id.z * WEIGHTS + index] = tree[local];
    }
}

@compute @workgroup_size(64)
fn sum_bias_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let invocation = linear_index(id, groups);
    let index = invocation / SUM_LANES;
    let lane = local % SUM_LANES;
    tree[local] = sum_of_parts(id.z, WEIGHTS + min(index, OUT_CHANNELS - 1u), lane);
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (half < SUM_LANES && lane < half) {
            tree[local] += tree[local + half];
        }
    }
    if (index < OUT_CHANNELS && lane == 0u) {
        grad_bias[id.z * OUT_CHANNELS + index] = tree[local];
    }
}
