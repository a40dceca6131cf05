// The gradient of what fused_conv2d.wgsl computes: from that of the output, through the batch normalisation and
// rectifier after the convolution, to weight and bias, and through everything applied on loading to the input.
// `backward` does both in one launch: some workgroups compute the gradient of the input, the others that of weight
// and bias.
//
// The batch is split into PARTS of whole quads. Each part has a row in `grads`; every reader of a sum adds up its
// rows in order.

override QUADS: u32;
override REPLICAS: u32;
override PARTS: u32;
override IN_CHANNELS: u32; // of x
override IN_HEIGHT: u32;
override IN_WIDTH: u32;
override OUT_CHANNELS: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override KERNEL: u32;
override PADDING: u32;
// Where this layer's weights start in `packed`, for the two directions, and its bias, in vec4s. PACKED is the length
// of one replica.
override PACKED: u32;
override BACKWARD_WEIGHT: u32;
override HAS_BIAS: bool;
// Before: batch normalisation, whose parameters are vec4s in `packed` and whose sums start at IN_SUMS; rectifier; max
// pooling over adjacent POOL x POOL windows; dropout.
override IN_NORMALISE: bool;
override IN_SCALE: u32;
override IN_SHIFT: u32;
override IN_SUMS: u32;
override IN_RECTIFY: bool;
override IN_SLOPE: f32;
override POOL: u32;
override DROP: bool;
// Behind: rectifier; batch normalisation, whose sums start at OUT_SUMS.
override OUT_RECTIFY: bool;
override OUT_SLOPE: f32;
override OUT_NORMALISE: bool;
override OUT_SUMS: u32;
override OUT_SCALE: u32;
// Gradients: first element in a row of `grads`, which has GRADS elements.
override GRADS: u32;
override GRAD_WEIGHT: u32;
override GRAD_BIAS: u32;
override GRAD_IN_SCALE: u32;
override GRAD_IN_SHIFT: u32;
override GRAD_OUT_SCALE: u32;
override GRAD_OUT_SHIFT: u32;
override GRAD_LANES: u32; // invocations that share a tile of the weight gradient: a power of two, at most 64
override INPUT_GROUPS: u32; // workgroups of `backward` that make the gradient of the input
// Places in `state`: of words, and of settings among those of a replica.
override THIS_STEP: u32;
override STEP_IMAGES: u32; // images of this step's batch
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override DROPOUT_KEY: u32; // of this layer's random words
override DROPOUT_THRESHOLD: u32; // rate · 2³²
override DROPOUT_SCALE: u32; // 1 / (1 − rate)

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // before everything that is applied on loading
// Parameters; weights as [c, i, j, o/4] and [o, i, j, c/4], vec4s of four channels
@group(0) @binding(1) var<storage, read> packed: array<vec4<f32>>;
// [part, replica, channel]: mean and Σ(x − mean)²; after the parts one row with mean and 1/√(var + EPS) of the batch
@group(0) @binding(3) var<storage, read_write> sums: array<vec2<f32>>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(6) var<storage, read> state: array<u32>;
@group(0) @binding(7) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> grad_input: array<vec4<f32>>; // of `input`, or of its normalised values
@group(0) @binding(9) var<storage, read_write> grads: array<f32>; // [part, element]
@group(0) @binding(10) var<storage, read> made: array<vec4<f32>>; // the output, in the backward pass

const CHANNELS = 4u;
const STRIP = 4u;
// With a 3x3 kernel and large maps, an invocation makes a block instead, which loads less for each sum.
const BLOCK_ROWS = 3u;
const BLOCK_COLUMNS = 2u;
const MOST_PIXELS = 6u;
const SMALL = 64u; // pixels of a map too small for that
const ROW = 16u; // row values that an invocation holds; KERNEL is at most 13
// A tile of the weight gradient: output channels by columns, a column being a (c, i, j) of the kernel.
const GRAD_CHANNELS = 8u;
const GRAD_COLUMNS = 9u;
const MOST_CHANNELS = 256u;

override PART_QUADS: u32 = (QUADS + PARTS - 1u) / PARTS;
override IN_TILES: u32 = (IN_CHANNELS + CHANNELS - 1u) / CHANNELS;
override IN_BLOCKS: bool = KERNEL == 3u && IN_HEIGHT * IN_WIDTH >= SMALL;
override IN_STRIPS: u32 = (IN_WIDTH + STRIP - 1u) / STRIP;
override IN_COLUMNS: u32 = select(IN_STRIPS, (IN_WIDTH + BLOCK_COLUMNS - 1u) / BLOCK_COLUMNS, IN_BLOCKS);
override IN_PIXELS: u32 = select(STRIP, BLOCK_ROWS * BLOCK_COLUMNS, IN_BLOCKS);
override IN_ACROSS: u32 = select(STRIP, BLOCK_COLUMNS, IN_BLOCKS);
override IN_DOWN: u32 = select(1u, BLOCK_ROWS, IN_BLOCKS);
override IN_ROWS: u32 = select(IN_HEIGHT, (IN_HEIGHT + BLOCK_ROWS - 1u) / BLOCK_ROWS, IN_BLOCKS);
override RAW_HEIGHT: u32 = IN_HEIGHT * POOL;
override RAW_WIDTH: u32 = IN_WIDTH * POOL;
override COLUMNS: u32 = IN_CHANNELS * KERNEL * KERNEL;
// A column's value for one pixel is that of the next kernel row for the pixel above: it then moves from register to
// register.
override SLIDES: bool = GRAD_COLUMNS % (KERNEL * KERNEL) == 0u;
override GRAD_ACROSS: u32 = min(OUT_WIDTH, GRAD_LANES);
override BANDS: u32 = GRAD_LANES / GRAD_ACROSS;
override BAND: u32 = (OUT_HEIGHT + BANDS - 1u) / BANDS; // rows

// x̂ · weight + bias of the input as value · scale + shift, with mean and 1/√(var + EPS)
var<workgroup> in_norms: array<vec4<f32>, MOST_CHANNELS>;
// From the gradient after the batch normalisation to that before it: a · gradient + b · output + c
var<workgroup> out_norms: array<vec4<f32>, MOST_CHANNELS>;
var<workgroup> tree_a: array<vec4<f32>, 64>;
var<workgroup> tree_b: array<vec4<f32>, 64>;

// A setting of a replica.
fn setting(replica: u32, index: u32) -> u32 {
    return state[FIRST_SETTING + replica * SETTINGS + index];
}

// PCG4D: Jarzynski and Olano, JCGT 9(3), 2020. The same function is in src/rng.rs.
fn pcg4d(words: vec4<u32>) -> vec4<u32> {
    var v = words * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// 1 for the lanes of a quad that hold an image of the batch, 0 for the others.
fn lane_mask(quad: u32, images: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), vec4(0u, 1u, 2u, 3u) + quad * 4u < vec4(images));
}

// Element number `index` of a parameter that starts at vec4 `start` of the packed ones.
fn param(replica: u32, start: u32, index: u32) -> f32 {
    return packed[replica * PACKED + start + index / 4u][index % 4u];
}

fn in_norm(replica: u32, c: u32, mean: f32, inv_std: f32) -> vec4<f32> {
    let scale = inv_std * param(replica, IN_SCALE, c);
    return vec4(scale, param(replica, IN_SHIFT, c) - mean * scale, mean, inv_std);
}

// x at a row and column counted from the edge of the padding. Outside, it loads from a clamped position and discards
// the value: cheaper than a branch.
fn loaded(replica: u32, quad: u32, c: u32, norm: vec4<f32>, row: u32, column: u32) -> vec4<f32> {
    var inside = true;
    var y = min(row, IN_HEIGHT - 1u);
    var x = min(column, IN_WIDTH - 1u);
    if (PADDING > 0u) {
        inside = row >= PADDING && row < IN_HEIGHT + PADDING && column >= PADDING && column < IN_WIDTH + PADDING;
        y = min(max(row, PADDING) - PADDING, IN_HEIGHT - 1u);
        x = min(max(column, PADDING) - PADDING, IN_WIDTH - 1u);
    }
    let at = (((replica * QUADS + quad) * IN_CHANNELS + c) * RAW_HEIGHT + y * POOL) * RAW_WIDTH + x * POOL;
    var value = before_pool(input[at], norm);
    for (var k = 1u; k < POOL * POOL; k++) {
        value = max(value, before_pool(input[at + k / POOL * RAW_WIDTH + k % POOL], norm));
    }
    value = dropped(value, replica, quad, (c * IN_HEIGHT + y) * IN_WIDTH + x);
    if (PADDING > 0u) {
        value = select(vec4(0.0), value, inside);
    }
    return value;
}

fn before_pool(raw: vec4<f32>, norm: vec4<f32>) -> vec4<f32> {
    var value = raw;
    if (IN_NORMALISE) {
        value = value * norm.x + norm.y;
    }
    if (IN_RECTIFY) {
        value = select(IN_SLOPE * value, value, value > vec4(0.0));
    }
    return value;
}

// Dropout's mask, applied to a value or to its gradient.
fn dropped(value: vec4<f32>, replica: u32, quad: u32, element: u32) -> vec4<f32> {
    if (!DROP) {
        return value;
    }
    let key = setting(replica, DROPOUT_KEY);
    let threshold = setting(replica, DROPOUT_THRESHOLD);
    let scale = bitcast<f32>(setting(replica, DROPOUT_SCALE));
    let words = pcg4d(vec4(element, quad, state[THIS_STEP], key));
    return select(vec4(0.0), value * scale, words >= vec4(threshold));
}

// Sums for the pixels that an invocation makes at a time; the columns are CHANNELS maps.
struct Pixels {
    sums: array<mat4x4<f32>, MOST_PIXELS>,
}

// Sums of CHANNELS maps, the columns, for BLOCK_ROWS x BLOCK_COLUMNS pixels.
struct Block {
    at_00: mat4x4<f32>,
    at_01: mat4x4<f32>,
    at_10: mat4x4<f32>,
    at_11: mat4x4<f32>,
    at_20: mat4x4<f32>,
    at_21: mat4x4<f32>,
}

fn product(value: vec4<f32>, tap: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(value * tap.x, value * tap.y, value * tap.z, value * tap.w);
}

fn row_of_taps(sums_here: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, taps: array<vec4<f32>, 3>) -> mat4x4<f32> {
    return sums_here + product(a, taps[0]) + product(b, taps[1]) + product(c, taps[2]);
}

// One row of four values under a 3x3 kernel: for the pixels i rows above it, it is under row i of the kernel.
fn add_row(before: Block, number: u32, v: array<vec4<f32>, 4>, first: array<vec4<f32>, 3>,
           second: array<vec4<f32>, 3>, third: array<vec4<f32>, 3>) -> Block {
    var after = before;
    if (number == 0u) {
        after.at_00 = row_of_taps(after.at_00, v[0], v[1], v[2], first);
        after.at_01 = row_of_taps(after.at_01, v[1], v[2], v[3], first);
    }
    if (number == 1u) {
        after.at_00 = row_of_taps(after.at_00, v[0], v[1], v[2], second);
        after.at_01 = row_of_taps(after.at_01, v[1], v[2], v[3], second);
        after.at_10 = row_of_taps(after.at_10, v[0], v[1], v[2], first);
        after.at_11 = row_of_taps(after.at_11, v[1], v[2], v[3], first);
    }
    if (number == 2u) {
        after.at_00 = row_of_taps(after.at_00, v[0], v[1], v[2], third);
        after.at_01 = row_of_taps(after.at_01, v[1], v[2], v[3], third);
        after.at_10 = row_of_taps(after.at_10, v[0], v[1], v[2], second);
        after.at_11 = row_of_taps(after.at_11, v[1], v[2], v[3], second);
        after.at_20 = row_of_taps(after.at_20, v[0], v[1], v[2], first);
        after.at_21 = row_of_taps(after.at_21, v[1], v[2], v[3], first);
    }
    if (number == 3u) {
        after.at_10 = row_of_taps(after.at_10, v[0], v[1], v[2], third);
        after.at_11 = row_of_taps(after.at_11, v[1], v[2], v[3], third);
        after.at_20 = row_of_taps(after.at_20, v[0], v[1], v[2], second);
        after.at_21 = row_of_taps(after.at_21, v[1], v[2], v[3], second);
    }
    if (number == 4u) {
        after.at_20 = row_of_taps(after.at_20, v[0], v[1], v[2], third);
        after.at_21 = row_of_taps(after.at_21, v[1], v[2], v[3], third);
    }
    return after;
}

fn pixels_of(blocks: Block) -> Pixels {
    var made_here: Pixels;
    made_here.sums[0] = blocks.at_00;
    made_here.sums[1] = blocks.at_01;
    made_here.sums[2] = blocks.at_10;
    made_here.sums[3] = blocks.at_11;
    made_here.sums[4] = blocks.at_20;
    made_here.sums[5] = blocks.at_21;
    return made_here;
}

// Sums over images for four channels, and sums of products.
struct Pair {
    sum: vec4<f32>,
    sum_of_products: vec4<f32>,
}

// a, b and c of a channel of the output: dz = weight · inv_std · (g − Σg/M − x̂ · Σ(g·x̂)/M), with x̂ = (z − mean) · inv_std.
fn out_norm(replica: u32, o: u32, images: u32) -> vec4<f32> {
    var sum = 0.0;
    var sum_normalised = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        sum += grads[part * GRADS + GRAD_OUT_SHIFT + replica * OUT_CHANNELS + o];
        sum_normalised += grads[part * GRADS + GRAD_OUT_SCALE + replica * OUT_CHANNELS + o];
    }
    let count = f32(images * OUT_HEIGHT * OUT_WIDTH);
    let norm = sums[OUT_SUMS + (PARTS * REPLICAS + replica) * OUT_CHANNELS + o];
    let a = param(replica, OUT_SCALE, o) * norm.y;
    let slope = a * (sum_normalised / count) * norm.y;
    return vec4(a, -slope, slope * norm.x - a * (sum / count), 0.0);
}

// Gradient of the convolution's result at an index of `grad_output`.
fn upstream(at: u32, norm: vec4<f32>, mask: vec4<f32>) -> vec4<f32> {
    var gradient = grad_output[at];
    if (OUT_NORMALISE) {
        gradient = (norm.x * gradient + norm.y * made[at] + norm.z) * mask;
    }
    if (OUT_RECTIFY) {
        gradient = select(OUT_SLOPE * gradient, gradient, made[at] > vec4(0.0));
    }
    return gradient;
}

fn load_norms(replica: u32, local: u32, images: u32) {
    if (OUT_NORMALISE) {
        for (var o = local; o < OUT_CHANNELS; o += 64u) {
            out_norms[o] = out_norm(replica, o, images);
        }
    }
    if (IN_NORMALISE) {
        for (var c = local; c < IN_CHANNELS; c += 64u) {
            let norm = sums[IN_SUMS + (PARTS * REPLICAS + replica) * IN_CHANNELS + c];
            in_norms[c] = in_norm(replica, c, norm.x, norm.y);
        }
    }
}

fn out_norm_of(o: u32) -> vec4<f32> {
    if (!OUT_NORMALISE) {
        return vec4(0.0);
    }
    return out_norms[o];
}

// Writes the gradient of one value of x back to the positions of the input that it came from; returns its sum over
// images and positions, and the sum of its product with x̂.
fn store_gradient(replica: u32, quad: u32, c: u32, y: u32, x: u32, of_x: vec4<f32>) -> vec2<f32> {
    var sum = vec4(0.0);
    var sum_normalised = vec4(0.0);
    if (c < IN_CHANNELS) {
        var norm = vec4(0.0);
        if (IN_NORMALISE) {
            norm = in_norms[c];
        }
        let at = (((replica * QUADS + quad) * IN_CHANNELS + c) * RAW_HEIGHT + y * POOL) * RAW_WIDTH + x * POOL;
        // The first maximum in row-major order.
        var raw = input[at];
        var best = before_pool(raw, norm);
        var winner = vec4(0u);
        for (var k = 1u; k < POOL * POOL; k++) {
            let raw_here = input[at + k / POOL * RAW_WIDTH + k % POOL];
            let value = before_pool(raw_here, norm);
            let wins = value > best;
            raw = select(raw, raw_here, wins);
            best = select(best, value, wins);
            winner = select(winner, vec4(k), wins);
        }
        sum = dropped(of_x, replica, quad, (c * IN_HEIGHT + y) * IN_WIDTH + x);
        if (IN_RECTIFY) {
            sum = select(IN_SLOPE * sum, sum, best > vec4(0.0));
        }
        sum_normalised = sum * ((raw - norm.z) * norm.w);
        for (var k = 0u; k < POOL * POOL; k++) {
            grad_input[at + k / POOL * RAW_WIDTH + k % POOL] = select(vec4(0.0), sum, winner == vec4(k));
        }
    }
    return vec2(dot(sum, vec4(1.0)), dot(sum_normalised, vec4(1.0)));
}

// The same for one pixel of CHANNELS maps, added to `before`.
fn store_gradients(before: Pair, replica: u32, quad: u32, tile: u32, y: u32, x: u32, of_x: mat4x4<f32>) -> Pair {
    var after = before;
    var maps = of_x;
    if (x < IN_WIDTH && y < IN_HEIGHT) {
        for (var t = 0u; t < CHANNELS; t++) {
            let sums_here = store_gradient(replica, quad, tile * CHANNELS + t, y, x, maps[t]);
            let of_this = vec4<f32>(vec4(0u, 1u, 2u, 3u) == vec4(t));
            after.sum += sums_here.x * of_this;
            after.sum_of_products += sums_here.y * of_this;
        }
    }
    return after;
}

// Gradient of the convolution's result at a row and column, 0 outside.
fn upstream_at(map: u32, row: u32, column: u32, norm: vec4<f32>, mask: vec4<f32>) -> vec4<f32> {
    let at = (map + min(row, OUT_HEIGHT - 1u)) * OUT_WIDTH + min(column, OUT_WIDTH - 1u);
    return select(vec4(0.0), upstream(at, norm, mask), row < OUT_HEIGHT && column < OUT_WIDTH);
}

fn upstream_row(map: u32, row: u32, column: u32, norm: vec4<f32>, mask: vec4<f32>) -> array<vec4<f32>, 4> {
    // A loop: twenty copies in all are too much for some compilers.
    var row_here: array<vec4<f32>, 4>;
    for (var q = 0u; q < 4u; q++) {
        row_here[q] = upstream_at(map, row, column + q, norm, mask);
    }
    return row_here;
}

// Gradient of x for a block starting at (y, x): the convolution with the kernel rotated by 180°.
fn gradient_block(replica: u32, quad: u32, tile: u32, y: u32, x: u32, mask: vec4<f32>) -> Block {
    let zero = mat4x4<f32>();
    var whole = Block(zero, zero, zero, zero, zero, zero);
    // Wraps around to a huge number where it is negative, which then counts as outside.
    let row = y + PADDING - 2u;
    let column = x + PADDING - 2u;
    for (var o = 0u; o < OUT_CHANNELS; o++) {
        let norm = out_norm_of(o);
        let map = ((replica * QUADS + quad) * OUT_CHANNELS + o) * OUT_HEIGHT;
        let at = replica * PACKED + BACKWARD_WEIGHT + o * 9u * IN_TILES + tile;
        let first = array<vec4<f32>, 3>(packed[at + 8u * IN_TILES], packed[at + 7u * IN_TILES], packed[at + 6u * IN_TILES]);
        let second = array<vec4<f32>, 3>(packed[at + 5u * IN_TILES], packed[at + 4u * IN_TILES], packed[at + 3u * IN_TILES]);
        let third = array<vec4<f32>, 3>(packed[at + 2u * IN_TILES], packed[at + IN_TILES], packed[at]);
        whole = add_row(whole, 0u, upstream_row(map, row, column, norm, mask), first, second, third);
        whole = add_row(whole, 1u, upstream_row(map, row + 1u, column, norm, mask), first, second, third);
        whole = add_row(whole, 2u, upstream_row(map, row + 2u, column, norm, mask), first, second, third);
        whole = add_row(whole, 3u, upstream_row(map, row + 3u, column, norm, mask), first, second, third);
        whole = add_row(whole, 4u, upstream_row(map, row + 4u, column, norm, mask), first, second, third);
    }
    return whole;
}

// Gradient of x for a strip starting at (y, x).
fn gradient_strip(replica: u32, quad: u32, tile: u32, y: u32, x: u32, mask: vec4<f32>) -> Pixels {
    var here: array<mat4x4<f32>, STRIP>;
    for (var o = 0u; o < OUT_CHANNELS; o++) {
        let norm = out_norm_of(o);
        let map = ((replica * QUADS + quad) * OUT_CHANNELS + o) * OUT_HEIGHT;
        for (var i = 0u; i < KERNEL; i++) {
            // row[q] is what tap j of pixel x + p reads, for q = p + KERNEL − 1 − j. Negative indices wrap to huge ones.
            var row: array<vec4<f32>, ROW>;
            for (var q = 0u; q < STRIP + KERNEL - 1u; q++) {
                row[q] = upstream_at(map, y + PADDING - i, x + q + PADDING + 1u - KERNEL, norm, mask);
            }
            let taps = replica * PACKED + BACKWARD_WEIGHT + (o * KERNEL + i) * KERNEL * IN_TILES + tile;
            for (var j = 0u; j < KERNEL; j++) {
                let tap = packed[taps + j * IN_TILES];
                for (var p = 0u; p < STRIP; p++) {
                    here[p] += product(row[p + KERNEL - 1u - j], tap);
                }
            }
        }
    }
    var made_here: Pixels;
    made_here.sums[0] = here[0];
    made_here.sums[1] = here[1];
    made_here.sums[2] = here[2];
    made_here.sums[3] = here[3];
    return made_here;
}

fn gradient_pixels(replica: u32, quad: u32, tile: u32, y: u32, x: u32, mask: vec4<f32>) -> Pixels {
    if (IN_BLOCKS) {
        return pixels_of(gradient_block(replica, quad, tile, y, x, mask));
    }
    return gradient_strip(replica, quad, tile, y, x, mask);
}

fn input_gradient(replica: u32, group: u32, local: u32, images: u32) {
    let part = group / IN_TILES;
    let tile = group % IN_TILES;
    var all = Pair(vec4(0.0), vec4(0.0));
    for (var place = local; place < PART_QUADS * IN_ROWS * IN_COLUMNS; place += 64u) {
        let quad = part * PART_QUADS + place / (IN_ROWS * IN_COLUMNS);
        if (quad < QUADS) {
            let y = place / IN_COLUMNS % IN_ROWS * IN_DOWN;
            let x = place % IN_COLUMNS * IN_ACROSS;
            var here = gradient_pixels(replica, quad, tile, y, x, lane_mask(quad, images));
            for (var p = 0u; p < IN_PIXELS; p++) {
                all = store_gradients(all, replica, quad, tile, y + p / IN_ACROSS, x + p % IN_ACROSS, here.sums[p]);
            }
        }
    }
    if (IN_NORMALISE) {
        tree_a[local] = all.sum;
        tree_b[local] = all.sum_of_products;
        for (var half = 32u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (local < half) {
                tree_a[local] += tree_a[local + half];
                tree_b[local] += tree_b[local + half];
            }
        }
        workgroupBarrier();
        let c = tile * CHANNELS + local;
        if (local < CHANNELS && c < IN_CHANNELS) {
            grads[part * GRADS + GRAD_IN_SHIFT + replica * IN_CHANNELS + c] = tree_a[0][local];
            grads[part * GRADS + GRAD_IN_SCALE + replica * IN_CHANNELS + c] = tree_b[0][local];
        }
    }
}

// Gradients of four maps from channel `first` on at one place; v * matrix is then the product of v with each, summed
// over images.
fn upstream_of_four(replica: u32, quad: u32, first: u32, y: u32, x: u32, mask: vec4<f32>) -> mat4x4<f32> {
    let map = (replica * QUADS + quad) * OUT_CHANNELS;
    let o = min(vec4(first, first + 1u, first + 2u, first + 3u), vec4(OUT_CHANNELS - 1u));
    let at = ((o + map) * OUT_HEIGHT + y) * OUT_WIDTH + x;
    return mat4x4<f32>(
        upstream(at.x, out_norm_of(o.x), mask),
        upstream(at.y, out_norm_of(o.y), mask),
        upstream(at.z, out_norm_of(o.z), mask),
        upstream(at.w, out_norm_of(o.w), mask),
    );
}

fn store_weight_gradient(replica: u32, part: u32, o: u32, column: u32, total: f32) {
    if (o < OUT_CHANNELS && column < COLUMNS) {
        grads[part * GRADS + GRAD_WEIGHT + (replica * OUT_CHANNELS + o) * COLUMNS + column] = total;
    }
}

// Adds up the values of the GRAD_LANES invocations of each tile; the first of them gets the sums.
fn sum_over_lanes(local: u32, a: vec4<f32>, b: vec4<f32>) -> Pair {
    if (GRAD_LANES == 1u) {
        return Pair(a, b);
    }
    workgroupBarrier();
    tree_a[local] = a;
    tree_b[local] = b;
    for (var half = GRAD_LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local % GRAD_LANES < half) {
            tree_a[local] += tree_a[local + half];
            tree_b[local] += tree_b[local + half];
        }
    }
    return Pair(tree_a[local], tree_b[local]);
}

// A workgroup makes 64 / GRAD_LANES tiles. The invocations of a tile are placed side by side along a row of the map
// and, if it is shorter, in several bands of rows; each works down its band, image by image.
fn weight_gradient(replica: u32, group: u32, local: u32, images: u32) {
    let column_tiles = (COLUMNS + GRAD_COLUMNS - 1u) / GRAD_COLUMNS;
    let channel_tiles = (OUT_CHANNELS + GRAD_CHANNELS - 1u) / GRAD_CHANNELS;
    let tile = (group * 64u + local) / GRAD_LANES;
    let lane = local % GRAD_LANES;
    let part = tile % PARTS;
    let first_column = tile / PARTS % column_tiles * GRAD_COLUMNS;
    let first = tile / (PARTS * column_tiles) * GRAD_CHANNELS;
    // Channel, row, column and normalisation of each column's tap.
    var tap_channel: array<u32, GRAD_COLUMNS>;
    var tap_row: array<u32, GRAD_COLUMNS>;
    var tap_column: array<u32, GRAD_COLUMNS>;
    var tap_norm: array<vec4<f32>, GRAD_COLUMNS>;
    for (var k = 0u; k < GRAD_COLUMNS; k++) {
        let column = min(first_column + k, COLUMNS - 1u);
        tap_channel[k] = column / (KERNEL * KERNEL);
        tap_row[k] = column / KERNEL % KERNEL;
        tap_column[k] = column % KERNEL;
        if (IN_NORMALISE) {
            tap_norm[k] = in_norms[tap_channel[k]];
        }
    }
    // For each column, the first four channels and the next four.
    var totals_a: array<vec4<f32>, GRAD_COLUMNS>;
    var totals_b: array<vec4<f32>, GRAD_COLUMNS>;
    var bias_a = vec4(0.0);
    var bias_b = vec4(0.0);
    let first_row = lane / GRAD_ACROSS * BAND;
    var last_row = min(first_row + BAND, OUT_HEIGHT);
    if (lane >= GRAD_ACROSS * BANDS || tile >= PARTS * column_tiles * channel_tiles) {
        last_row = 0u;
    }
    for (var quad = part * PART_QUADS; quad < min((part + 1u) * PART_QUADS, QUADS); quad++) {
        let mask = lane_mask(quad, images);
        for (var x = lane % GRAD_ACROSS; x < OUT_WIDTH; x += GRAD_ACROSS) {
            var values: array<vec4<f32>, GRAD_COLUMNS>;
            if (SLIDES) {
                for (var k = 0u; k < GRAD_COLUMNS; k++) {
                    if (k / KERNEL % KERNEL > 0u) {
                        values[k] = loaded(replica, quad, tap_channel[k], tap_norm[k], first_row + tap_row[k] - 1u, x + tap_column[k]);
                    }
                }
            }
            for (var y = first_row; y < last_row; y++) {
                for (var k = 0u; k < GRAD_COLUMNS; k++) {
                    if (SLIDES && k / KERNEL % KERNEL + 1u < KERNEL) {
                        values[k] = values[min(k + KERNEL, GRAD_COLUMNS - 1u)];
                    } else {
                        values[k] = loaded(replica, quad, tap_channel[k], tap_norm[k], y + tap_row[k], x + tap_column[k]);
                    }
                }
                let gradient_a = upstream_of_four(replica, quad, first, y, x, mask);
                let gradient_b = upstream_of_four(replica, quad, first + 4u, y, x, mask);
                for (var k = 0u; k < GRAD_COLUMNS; k++) {
                    totals_a[k] += values[k] * gradient_a;
                }
                for (var k = 0u; k < GRAD_COLUMNS; k++) {
                    totals_b[k] += values[k] * gradient_b;
                }
                if (HAS_BIAS) {
                    bias_a += vec4(1.0) * gradient_a;
                    bias_b += vec4(1.0) * gradient_b;
                }
            }
        }
    }
    let stores = lane == 0u && tile < PARTS * column_tiles * channel_tiles;
    for (var k = 0u; k < GRAD_COLUMNS; k++) {
        let total = sum_over_lanes(local, totals_a[k], totals_b[k]);
        if (stores) {
            for (var t = 0u; t < 4u; t++) {
                store_weight_gradient(replica, part, first + t, first_column + k, total.sum[t]);
                store_weight_gradient(replica, part, first + 4u + t, first_column + k, total.sum_of_products[t]);
            }
        }
    }
    if (HAS_BIAS) {
        let total = sum_over_lanes(local, bias_a, bias_b);
        if (stores && first_column == 0u) {
            let start = part * GRADS + GRAD_BIAS + replica * OUT_CHANNELS + first;
            for (var t = 0u; t < 4u; t++) {
                if (first + t < OUT_CHANNELS) {
                    grads[start + t] = total.sum[t];
                }
                if (first + 4u + t < OUT_CHANNELS) {
                    grads[start + 4u + t] = total.sum_of_products[t];
                }
            }
        }
    }
}

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let images = state[STEP_IMAGES];
    load_norms(group.z, local, images);
    workgroupBarrier();
    // Interleaves the two kinds evenly, since devices assign workgroups in order.
    let weight_groups = groups.x - INPUT_GROUPS;
    let weights_before = group.x * weight_groups / groups.x;
    if ((group.x + 1u) * weight_groups / groups.x == weights_before) {
        input_gradient(group.z, group.x - weights_before, local, images);
    } else {
        weight_gradient(group.z, weights_before, local, images);
    }
}

// For a layer with nothing trainable below it.
@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let images = state[STEP_IMAGES];
    load_norms(group.z, local, images);
    workgroupBarrier();
    weight_gradient(group.z, group.x, local, images);
}

// The gradient of the convolution's result as a separate pass, where it would be recomputed too often on loading. A
// workgroup makes one map of one quad.
@compute @workgroup_size(64)
fn backward_output(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let images = state[STEP_IMAGES];
    let quad = group.x / OUT_CHANNELS;
    let o = group.x % OUT_CHANNELS;
    if (local == 0u) {
        out_norms[0] = out_norm(group.z, o, images);
    }
    workgroupBarrier();
    let norm = out_norms[0];
    let mask = lane_mask(quad, images);
    let start = ((group.z * QUADS + quad) * OUT_CHANNELS + o) * OUT_HEIGHT * OUT_WIDTH;
    for (var place = local; place < OUT_HEIGHT * OUT_WIDTH; place += 64u) {
        grad_input[start + place] = upstream(start + place, norm, mask);
    }
}
