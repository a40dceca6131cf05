// A convolution of stride 1 without groups (formula: conv2d.wgsl), fused with what stands before and behind it:
//   x = drop(pool(rectify(normalise(input))))    applied wherever the input is loaded
//   output = rectify(x ∗ weight + bias)          and, for a batch normalisation that follows, mean and Σ(output − mean)²
// The way back is fused_conv2d_backward.wgsl.
//
// The batch is cut into PARTS of whole quads. Each part has a row in `sums`; whoever reads a sum adds up its rows in order. One
// workgroup makes CHANNELS maps of one part, an invocation some neighbouring pixels of them at a time.

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
// Where this layer's weights start in `packed`, for the two directions, and its bias, counted in vec4s. PACKED is the
// length of one replica.
override PACKED: u32;
override FORWARD_WEIGHT: u32;
override HAS_BIAS: bool;
override BIAS: u32;
// Before: batch normalisation, whose parameters are vec4s in `packed` and whose sums start at IN_SUMS; rectifier; maximum
// over windows of POOL x POOL that touch; dropout.
override IN_NORMALISE: bool;
override IN_SCALE: u32;
override IN_SHIFT: u32;
override IN_SUMS: u32;
override IN_EPS: f32;
override IN_MOMENTUM: f32;
override IN_RUNNING_MEAN: u32;
override IN_RUNNING_VAR: u32;
override AVERAGE_DECAY: f32; // 0: no average of the running statistics
override IN_RECTIFY: bool;
override IN_SLOPE: f32;
override POOL: u32;
override DROP: bool;
override DROPOUT: u32; // first of its settings: key of its random words, rate · 2³², 1 / (1 − rate)
override SETTINGS: u32; // words of a replica in `state`
// Behind: rectifier; batch normalisation, whose sums start at OUT_SUMS.
override OUT_RECTIFY: bool;
override OUT_SLOPE: f32;
override OUT_NORMALISE: bool;
override OUT_SUMS: u32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // before all that is applied on loading
// Parameters; weights as [c, i, j, o/4] and [o, i, j, c/4], vec4s of four channels
@group(0) @binding(1) var<storage, read> packed: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
// [part, replica, channel]: mean and Σ(x − mean)²; behind the parts one row with mean and 1/√(var + EPS) of the batch
@group(0) @binding(3) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> running: array<f32>;
@group(0) @binding(5) var<storage, read_write> average_running: array<f32>;
// next step, this step, images of this step's batch, 0; then SETTINGS words for each replica: src/replica.rs
@group(0) @binding(6) var<storage, read> state: array<u32>;

const CHANNELS = 4u;
const STRIP = 4u;
// With a 3x3 kernel and large maps an invocation makes a block instead, which loads less for each sum.
const BLOCK_ROWS = 3u;
const BLOCK_COLUMNS = 2u;
const MOST_PIXELS = 6u;
const SMALL = 64u; // pixels of a map that is not worth it
const ROW = 16u; // values of a row that an invocation holds; KERNEL is at most 13
const MOST_CHANNELS = 256u;

override PART_QUADS: u32 = (QUADS + PARTS - 1u) / PARTS;
override OUT_TILES: u32 = (OUT_CHANNELS + CHANNELS - 1u) / CHANNELS;
override OUT_BLOCKS: bool = KERNEL == 3u && OUT_HEIGHT * OUT_WIDTH >= SMALL;
override OUT_STRIPS: u32 = (OUT_WIDTH + STRIP - 1u) / STRIP;
override OUT_COLUMNS: u32 = select(OUT_STRIPS, (OUT_WIDTH + BLOCK_COLUMNS - 1u) / BLOCK_COLUMNS, OUT_BLOCKS);
override OUT_ROWS: u32 = select(OUT_HEIGHT, (OUT_HEIGHT + BLOCK_ROWS - 1u) / BLOCK_ROWS, OUT_BLOCKS);
override OUT_PIXELS: u32 = select(STRIP, BLOCK_ROWS * BLOCK_COLUMNS, OUT_BLOCKS); // that an invocation makes at a time
override OUT_ACROSS: u32 = select(STRIP, BLOCK_COLUMNS, OUT_BLOCKS);
override OUT_DOWN: u32 = select(1u, BLOCK_ROWS, OUT_BLOCKS);
override RAW_HEIGHT: u32 = IN_HEIGHT * POOL;
override RAW_WIDTH: u32 = IN_WIDTH * POOL;

// x̂ · weight + bias of the input as value · scale + shift, with mean and 1/√(var + EPS)
var<workgroup> in_norms: array<vec4<f32>, MOST_CHANNELS>;
var<workgroup> tree_a: array<vec4<f32>, 64>;
var<workgroup> tree_b: array<vec4<f32>, 64>;
var<workgroup> tree_count: array<f32, 64>;

// Setting number `index` of a replica.
fn setting(replica: u32, index: u32) -> u32 {
    return state[4u + replica * SETTINGS + index];
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

fn images_of_part(part: u32, images: u32) -> u32 {
    let first = part * PART_QUADS * 4u;
    return min(max(images, first) - first, PART_QUADS * 4u);
}

// Joins mean and Σ(x − mean)² of two sets of values (Chan, Golub and LeVeque 1983).
struct Moments {
    count: f32,
    mean: vec4<f32>,
    squares: vec4<f32>,
}

fn joined(a: Moments, b: Moments) -> Moments {
    let count = a.count + b.count;
    let share = b.count / max(count, 1.0);
    let apart = b.mean - a.mean;
    return Moments(count, a.mean + apart * share, a.squares + b.squares + apart * apart * (a.count * share));
}

// Statistics of the batch for a channel of the input, from all parts; `first` writes down what the backward pass and
// evaluation need.
fn normalisation(replica: u32, c: u32, images: u32, first: bool) -> vec4<f32> {
    var all = Moments(0.0, vec4(0.0), vec4(0.0));
    for (var part = 0u; part < PARTS; part++) {
        let row = sums[IN_SUMS + (part * REPLICAS + replica) * IN_CHANNELS + c];
        let count = f32(images_of_part(part, images) * RAW_HEIGHT * RAW_WIDTH);
        all = joined(all, Moments(count, vec4(row.x), vec4(row.y)));
    }
    let mean = all.mean.x;
    let batch_var = all.squares.x / all.count;
    let inv_std = inverseSqrt(batch_var + IN_EPS);
    if (first) {
        sums[IN_SUMS + (PARTS * REPLICAS + replica) * IN_CHANNELS + c] = vec2(mean, inv_std);
        let at_mean = IN_RUNNING_MEAN + replica * IN_CHANNELS + c;
        let at_var = IN_RUNNING_VAR + replica * IN_CHANNELS + c;
        let unbiased = batch_var * (all.count / max(all.count - 1.0, 1.0));
        let new_mean = (1.0 - IN_MOMENTUM) * running[at_mean] + IN_MOMENTUM * mean;
        let new_var = (1.0 - IN_MOMENTUM) * running[at_var] + IN_MOMENTUM * unbiased;
        running[at_mean] = new_mean;
        running[at_var] = new_var;
        if (AVERAGE_DECAY > 0.0) {
            let steps = f32(state[1]);
            let decay = min(AVERAGE_DECAY, (1.0 + steps) / (10.0 + steps));
            average_running[at_mean] += (1.0 - decay) * (new_mean - average_running[at_mean]);
            average_running[at_var] += (1.0 - decay) * (new_var - average_running[at_var]);
        }
    }
    return in_norm(replica, c, mean, inv_std);
}

fn in_norm(replica: u32, c: u32, mean: f32, inv_std: f32) -> vec4<f32> {
    let scale = inv_std * param(replica, IN_SCALE, c);
    return vec4(scale, param(replica, IN_SHIFT, c) - mean * scale, mean, inv_std);
}

// x at a row and column that count from the edge of the padding. Outside it loads a clamped place and drops it: cheaper
// than a branch.
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
    var value = before_pool(at, norm);
    if (POOL > 1u) {
        for (var i = 0u; i < POOL; i++) {
            for (var j = 0u; j < POOL; j++) {
                value = max(value, before_pool(at + i * RAW_WIDTH + j, norm));
            }
        }
    }
    value = dropped(value, replica, quad, (c * IN_HEIGHT + y) * IN_WIDTH + x);
    if (PADDING > 0u) {
        value = select(vec4(0.0), value, inside);
    }
    return value;
}

fn before_pool(at: u32, norm: vec4<f32>) -> vec4<f32> {
    var value = input[at];
    if (IN_NORMALISE) {
        value = value * norm.x + norm.y;
    }
    if (IN_RECTIFY) {
        value = select(IN_SLOPE * value, value, value > vec4(0.0));
    }
    return value;
}

// Dropout's mask: of a value, or of its gradient.
fn dropped(value: vec4<f32>, replica: u32, quad: u32, element: u32) -> vec4<f32> {
    if (!DROP) {
        return value;
    }
    let key = setting(replica, DROPOUT);
    let threshold = setting(replica, DROPOUT + 1u);
    let scale = bitcast<f32>(setting(replica, DROPOUT + 2u));
    let words = pcg4d(vec4(element, quad, state[1], key));
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

// One row of four values under a 3x3 kernel: it is row i of the kernel for the pixels i rows above it.
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

fn loaded_row(replica: u32, quad: u32, c: u32, norm: vec4<f32>, y: u32, x: u32) -> array<vec4<f32>, 4> {
    // In a loop: twenty copies in all are too much for some compilers.
    var row: array<vec4<f32>, 4>;
    for (var q = 0u; q < 4u; q++) {
        row[q] = loaded(replica, quad, c, norm, y, x + q);
    }
    return row;
}

// A block of pixels from (y, x) on under a 3x3 kernel.
fn convolved_block(replica: u32, quad: u32, tile: u32, y: u32, x: u32) -> Block {
    var start = vec4(0.0);
    if (HAS_BIAS) {
        start = packed[replica * PACKED + BIAS + tile];
    }
    let from_bias = product(vec4(1.0), start);
    var whole = Block(from_bias, from_bias, from_bias, from_bias, from_bias, from_bias);
    for (var c = 0u; c < IN_CHANNELS; c++) {
        var norm = vec4(0.0);
        if (IN_NORMALISE) {
            norm = in_norms[c];
        }
        let at = replica * PACKED + FORWARD_WEIGHT + c * 9u * OUT_TILES + tile;
        let first = array<vec4<f32>, 3>(packed[at], packed[at + OUT_TILES], packed[at + 2u * OUT_TILES]);
        let second = array<vec4<f32>, 3>(packed[at + 3u * OUT_TILES], packed[at + 4u * OUT_TILES], packed[at + 5u * OUT_TILES]);
        let third = array<vec4<f32>, 3>(packed[at + 6u * OUT_TILES], packed[at + 7u * OUT_TILES], packed[at + 8u * OUT_TILES]);
        whole = add_row(whole, 0u, loaded_row(replica, quad, c, norm, y, x), first, second, third);
        whole = add_row(whole, 1u, loaded_row(replica, quad, c, norm, y + 1u, x), first, second, third);
        whole = add_row(whole, 2u, loaded_row(replica, quad, c, norm, y + 2u, x), first, second, third);
        whole = add_row(whole, 3u, loaded_row(replica, quad, c, norm, y + 3u, x), first, second, third);
        whole = add_row(whole, 4u, loaded_row(replica, quad, c, norm, y + 4u, x), first, second, third);
    }
    return whole;
}

// STRIP pixels of CHANNELS maps from (y, x) on, before the rectifier.
fn convolved(replica: u32, quad: u32, tile: u32, y: u32, x: u32) -> Pixels {
    var start = vec4(0.0);
    if (HAS_BIAS) {
        start = packed[replica * PACKED + BIAS + tile];
    }
    var here: array<mat4x4<f32>, STRIP>;
    for (var p = 0u; p < STRIP; p++) {
        here[p] = product(vec4(1.0), start);
    }
    for (var c = 0u; c < IN_CHANNELS; c++) {
        var norm = vec4(0.0);
        if (IN_NORMALISE) {
            norm = in_norms[c];
        }
        for (var i = 0u; i < KERNEL; i++) {
            var row: array<vec4<f32>, ROW>;
            for (var q = 0u; q < STRIP - 1u + KERNEL; q++) {
                row[q] = loaded(replica, quad, c, norm, y + i, x + q);
            }
            let taps = replica * PACKED + FORWARD_WEIGHT + (c * KERNEL + i) * KERNEL * OUT_TILES + tile;
            for (var j = 0u; j < KERNEL; j++) {
                let tap = packed[taps + j * OUT_TILES];
                for (var p = 0u; p < STRIP; p++) {
                    here[p] += product(row[p + j], tap);
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

// What one invocation makes at a time, from (y, x) on.
fn made_pixels(replica: u32, quad: u32, tile: u32, y: u32, x: u32) -> Pixels {
    if (OUT_BLOCKS) {
        return pixels_of(convolved_block(replica, quad, tile, y, x));
    }
    return convolved(replica, quad, tile, y, x);
}

fn rectified(value: vec4<f32>) -> vec4<f32> {
    if (!OUT_RECTIFY) {
        return value;
    }
    return select(OUT_SLOPE * value, value, value > vec4(0.0));
}

fn store_output(replica: u32, quad: u32, o: u32, y: u32, x: u32, value: vec4<f32>) {
    if (o < OUT_CHANNELS) {
        output[(((replica * QUADS + quad) * OUT_CHANNELS + o) * OUT_HEIGHT + y) * OUT_WIDTH + x] = value;
    }
}

// What the first image has of four channels, rectified.
fn first_of(maps: mat4x4<f32>) -> vec4<f32> {
    return vec4(rectified(maps[0]).x, rectified(maps[1]).x, rectified(maps[2]).x, rectified(maps[3]).x);
}

// Sums over images of four channels, and of products.
struct Pair {
    sum: vec4<f32>,
    sum_of_products: vec4<f32>,
}

// Rectifies and writes one pixel of CHANNELS maps; adds to the sums of distances from `first` and of their squares.
fn finish_pixel(before: Pair, replica: u32, quad: u32, tile: u32, y: u32, x: u32, first: vec4<f32>, mask: vec4<f32>,
                maps: mat4x4<f32>) -> Pair {
    var after = before;
    if (x < OUT_WIDTH && y < OUT_HEIGHT) {
        let a = rectified(maps[0]);
        let b = rectified(maps[1]);
        let c = rectified(maps[2]);
        let d = rectified(maps[3]);
        store_output(replica, quad, tile * CHANNELS, y, x, a);
        store_output(replica, quad, tile * CHANNELS + 1u, y, x, b);
        store_output(replica, quad, tile * CHANNELS + 2u, y, x, c);
        store_output(replica, quad, tile * CHANNELS + 3u, y, x, d);
        if (OUT_NORMALISE) {
            let da = (a - first.x) * mask;
            let db = (b - first.y) * mask;
            let dc = (c - first.z) * mask;
            let dd = (d - first.w) * mask;
            after.sum += vec4(dot(da, vec4(1.0)), dot(db, vec4(1.0)), dot(dc, vec4(1.0)), dot(dd, vec4(1.0)));
            after.sum_of_products += vec4(dot(da, da), dot(db, db), dot(dc, dc), dot(dd, dd));
        }
    }
    return after;
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let images = state[2];
    if (IN_NORMALISE) {
        for (var c = local; c < IN_CHANNELS; c += 64u) {
            in_norms[c] = normalisation(group.z, c, images, group.x == 0u);
        }
        workgroupBarrier();
    }
    let part = group.x / OUT_TILES;
    let tile = group.x % OUT_TILES;
    // Values around this invocation's first one, so that a large mean does not cancel.
    var count = 0.0;
    var first = vec4(0.0);
    var all = Pair(vec4(0.0), vec4(0.0));
    for (var place = local; place < PART_QUADS * OUT_ROWS * OUT_COLUMNS; place += 64u) {
        let quad = part * PART_QUADS + place / (OUT_ROWS * OUT_COLUMNS);
        if (quad < QUADS) {
            let y = place / OUT_COLUMNS % OUT_ROWS * OUT_DOWN;
            let x = place % OUT_COLUMNS * OUT_ACROSS;
            let mask = lane_mask(quad, images);
            var here = made_pixels(group.z, quad, tile, y, x);
            if (OUT_NORMALISE && count == 0.0) {
                first = first_of(here.sums[0]);
            }
            for (var p = 0u; p < OUT_PIXELS; p++) {
                all = finish_pixel(all, group.z, quad, tile, y + p / OUT_ACROSS, x + p % OUT_ACROSS, first, mask, here.sums[p]);
            }
            let pixels = min(OUT_DOWN, OUT_HEIGHT - y) * min(OUT_ACROSS, OUT_WIDTH - x);
            count += dot(mask, vec4(1.0)) * f32(pixels);
        }
    }
    let total = all.sum;
    let squares = all.sum_of_products;
    if (OUT_NORMALISE) {
        let apart = total / max(count, 1.0);
        tree_count[local] = count;
        tree_a[local] = first + apart;
        tree_b[local] = max(squares - apart * total, vec4(0.0));
        for (var half = 32u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (local < half) {
                let other = local + half;
                let both = joined(Moments(tree_count[local], tree_a[local], tree_b[local]),
                                  Moments(tree_count[other], tree_a[other], tree_b[other]));
                tree_count[local] = both.count;
                tree_a[local] = both.mean;
                tree_b[local] = both.squares;
            }
        }
        workgroupBarrier();
        let o = tile * CHANNELS + local;
        if (local < CHANNELS && o < OUT_CHANNELS) {
            let row = (part * REPLICAS + group.z) * OUT_CHANNELS;
            sums[OUT_SUMS + row + o] = vec2(tree_a[0][local], tree_b[0][local]);
        }
    }
}

@compute @workgroup_size(64)
fn forward_eval(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if (IN_NORMALISE) {
        for (var c = local; c < IN_CHANNELS; c += 64u) {
            let mean = running[IN_RUNNING_MEAN + group.z * IN_CHANNELS + c];
            let inv_std = inverseSqrt(running[IN_RUNNING_VAR + group.z * IN_CHANNELS + c] + IN_EPS);
            in_norms[c] = in_norm(group.z, c, mean, inv_std);
        }
        workgroupBarrier();
    }
    let part = group.x / OUT_TILES;
    let tile = group.x % OUT_TILES;
    let none = Pair(vec4(0.0), vec4(0.0));
    let zero = vec4(0.0);
    for (var place = local; place < PART_QUADS * OUT_ROWS * OUT_COLUMNS; place += 64u) {
        let quad = part * PART_QUADS + place / (OUT_ROWS * OUT_COLUMNS);
        if (quad < QUADS) {
            let y = place / OUT_COLUMNS % OUT_ROWS * OUT_DOWN;
            let x = place % OUT_COLUMNS * OUT_ACROSS;
            var here = made_pixels(group.z, quad, tile, y, x);
            for (var p = 0u; p < OUT_PIXELS; p++) {
                finish_pixel(none, group.z, quad, tile, y + p / OUT_ACROSS, x + p % OUT_ACROSS, zero, zero, here.sums[p]);
            }
        }
    }
}
