// A convolution of stride 1 without groups (formula: conv2d.wgsl), fused with what comes before and after it:
//   x = drop(pool(rectify(normalise(input))))    applied wherever the input is loaded
//   output = rectify(x ∗ weight + bias)          and, for a following batch normalisation, mean and Σ(output − mean)²
// The backward pass is in fused_conv2d_backward.wgsl.
//
// The batch is split into PARTS of whole quads. Each part has a row in `sums`; every reader of a sum adds up its rows
// in order. One workgroup makes CHANNELS maps of one part; an invocation makes some adjacent pixels of them at a time.

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
override FORWARD_WEIGHT: u32;
override HAS_BIAS: bool;
override BIAS: u32;
// Before: batch normalisation, whose parameters are vec4s in `packed` and whose sums start at IN_SUMS; rectifier; max
// pooling over adjacent POOL x POOL windows; dropout.
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
// Behind: rectifier; batch normalisation, whose sums start at OUT_SUMS.
override OUT_RECTIFY: bool;
override OUT_SLOPE: f32;
override OUT_NORMALISE: bool;
override OUT_SUMS: u32;
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
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
// [part, replica, channel]: mean and Σ(x − mean)²; after the parts one row with mean and 1/√(var + EPS) of the batch
@group(0) @binding(3) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> running: array<f32>;
@group(0) @binding(5) var<storage, read_write> average_running: array<f32>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(6) var<storage, read> state: array<u32>;

// An invocation makes CHANNELS maps at a time, and a strip of adjacent pixels of each. TAPS weights of a kernel row
// are used together, so each loaded value contributes to several sums and each sum is fetched once for several products.
const CHANNELS = 8u;
const MOST_STRIP = 4u;
const MOST_TAPS = 3u;
const ROW = 6u; // MOST_STRIP + MOST_TAPS - 1
const MOST_CHANNELS = 256u;

override PART_QUADS: u32 = (QUADS + PARTS - 1u) / PARTS;
override OUT_TILES: u32 = (OUT_CHANNELS + CHANNELS - 1u) / CHANNELS;
override OUT_VECTORS: u32 = (OUT_CHANNELS + 3u) / 4u; // vec4s of weights for all maps
override OUT_STRIPS: u32 = (OUT_WIDTH + MOST_STRIP - 1u) / MOST_STRIP;
override OUT_STRIP: u32 = (OUT_WIDTH + OUT_STRIPS - 1u) / OUT_STRIPS; // pixels per strip, as even as possible
override TAPS: u32 = min(KERNEL, MOST_TAPS);
override RAW_HEIGHT: u32 = IN_HEIGHT * POOL;
override RAW_WIDTH: u32 = IN_WIDTH * POOL;

// x̂ · weight + bias of the input as value · scale + shift, with mean and 1/√(var + EPS)
var<workgroup> in_norms: array<vec4<f32>, MOST_CHANNELS>;
var<workgroup> tree_a: array<vec4<f32>, 64>;
var<workgroup> tree_b: array<vec4<f32>, 64>;
var<workgroup> tree_count: array<f32, 64>;

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

fn images_of_part(part: u32, images: u32) -> u32 {
    let first = part * PART_QUADS * 4u;
    return min(max(images, first) - first, PART_QUADS * 4u);
}

// Combines mean and Σ(x − mean)² of two sets of values (Chan, Golub and LeVeque 1983).
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

// Batch statistics of an input channel, from all parts; `first` stores what the backward pass and evaluation need.
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
            let steps = f32(state[THIS_STEP]);
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

// Sums of a strip: for each pixel four maps (the columns), and the next four.
struct Strip {
    first: array<mat4x4<f32>, MOST_STRIP>,
    second: array<mat4x4<f32>, MOST_STRIP>,
}

fn product(value: vec4<f32>, tap: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(value * tap.x, value * tap.y, value * tap.z, value * tap.w);
}

// TAPS adjacent values times their weights for four maps, added to the sums.
fn with_taps(before: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, taps: array<vec4<f32>, MOST_TAPS>) -> mat4x4<f32> {
    var after = before + product(a, taps[0]);
    if (TAPS > 1u) {
        after += product(b, taps[1]);
    }
    if (TAPS > 2u) {
        after += product(c, taps[2]);
    }
    return after;
}

fn weight_at(at: u32, vector: u32) -> vec4<f32> {
    return packed[at + min(vector, OUT_VECTORS - 1u)];
}

// A strip of CHANNELS maps starting at (y, x), before the rectifier.
fn convolved(replica: u32, quad: u32, tile: u32, y: u32, x: u32) -> Strip {
    var first: array<mat4x4<f32>, MOST_STRIP>;
    var second: array<mat4x4<f32>, MOST_STRIP>;
    if (HAS_BIAS) {
        let bias_first = product(vec4(1.0), weight_at(replica * PACKED + BIAS, 2u * tile));
        let bias_second = product(vec4(1.0), weight_at(replica * PACKED + BIAS, 2u * tile + 1u));
        for (var p = 0u; p < OUT_STRIP; p++) {
            first[p] = bias_first;
            second[p] = bias_second;
        }
    }
    for (var c = 0u; c < IN_CHANNELS; c++) {
        var norm = vec4(0.0);
        if (IN_NORMALISE) {
            norm = in_norms[c];
        }
        for (var i = 0u; i < KERNEL; i++) {
            for (var j = 0u; j < KERNEL; j += TAPS) {
                var row: array<vec4<f32>, ROW>;
                for (var q = 0u; q < OUT_STRIP + TAPS - 1u; q++) {
                    row[q] = loaded(replica, quad, c, norm, y + i, x + j + q);
                }
                var taps_first: array<vec4<f32>, MOST_TAPS>;
                var taps_second: array<vec4<f32>, MOST_TAPS>;
                for (var k = 0u; k < TAPS; k++) {
                    if (KERNEL % TAPS == 0u || j + k < KERNEL) {
                        let at = replica * PACKED + FORWARD_WEIGHT + ((c * KERNEL + i) * KERNEL + j + k) * OUT_VECTORS;
                        taps_first[k] = weight_at(at, 2u * tile);
                        taps_second[k] = weight_at(at, 2u * tile + 1u);
                    }
                }
                for (var p = 0u; p < OUT_STRIP; p++) {
                    first[p] = with_taps(first[p], row[p], row[p + 1u], row[p + 2u], taps_first);
                }
                for (var p = 0u; p < OUT_STRIP; p++) {
                    second[p] = with_taps(second[p], row[p], row[p + 1u], row[p + 2u], taps_second);
                }
            }
        }
    }
    return Strip(first, second);
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

// The first image's values in four channels, rectified.
fn first_of(maps: mat4x4<f32>) -> vec4<f32> {
    return vec4(rectified(maps[0]).x, rectified(maps[1]).x, rectified(maps[2]).x, rectified(maps[3]).x);
}

// Sums over images for four channels, and sums of products.
struct Pair {
    sum: vec4<f32>,
    sum_of_products: vec4<f32>,
}

// Rectifies and writes one pixel of four maps starting at o; adds to the sums of differences from `first` and of
// their squares.
fn finish_pixel(before: Pair, replica: u32, quad: u32, o: u32, y: u32, x: u32, first: vec4<f32>, mask: vec4<f32>,
                maps: mat4x4<f32>) -> Pair {
    var after = before;
    if (x < OUT_WIDTH && o < OUT_CHANNELS) {
        let a = rectified(maps[0]);
        let b = rectified(maps[1]);
        let c = rectified(maps[2]);
        let d = rectified(maps[3]);
        store_output(replica, quad, o, y, x, a);
        store_output(replica, quad, o + 1u, y, x, b);
        store_output(replica, quad, o + 2u, y, x, c);
        store_output(replica, quad, o + 3u, y, x, d);
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

// Combines the sums of the workgroup's invocations for four maps starting at o, and stores them.
fn store_sums(replica: u32, part: u32, o: u32, local: u32, count: f32, first: vec4<f32>, all: Pair) {
    let apart = all.sum / max(count, 1.0);
    tree_count[local] = count;
    tree_a[local] = first + apart;
    tree_b[local] = max(all.sum_of_products - apart * all.sum, vec4(0.0));
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
    if (local < 4u && o + local < OUT_CHANNELS) {
        let row = (part * REPLICAS + replica) * OUT_CHANNELS;
        sums[OUT_SUMS + row + o + local] = vec2(tree_a[0][local], tree_b[0][local]);
    }
    workgroupBarrier();
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let images = state[STEP_IMAGES];
    if (IN_NORMALISE) {
        for (var c = local; c < IN_CHANNELS; c += 64u) {
            in_norms[c] = normalisation(group.z, c, images, group.x == 0u);
        }
        workgroupBarrier();
    }
    let part = group.x / OUT_TILES;
    let tile = group.x % OUT_TILES;
    let o = tile * CHANNELS;
    // Values relative to this invocation's first ones, so a large mean causes no cancellation.
    var count = 0.0;
    var start_first = vec4(0.0);
    var start_second = vec4(0.0);
    var all_first = Pair(vec4(0.0), vec4(0.0));
    var all_second = Pair(vec4(0.0), vec4(0.0));
    for (var place = local; place < PART_QUADS * OUT_HEIGHT * OUT_STRIPS; place += 64u) {
        let quad = part * PART_QUADS + place / (OUT_HEIGHT * OUT_STRIPS);
        if (quad < QUADS) {
            let y = place / OUT_STRIPS % OUT_HEIGHT;
            let x = place % OUT_STRIPS * OUT_STRIP;
            let mask = lane_mask(quad, images);
            var here = convolved(group.z, quad, tile, y, x);
            if (OUT_NORMALISE && count == 0.0) {
                start_first = first_of(here.first[0]);
                start_second = first_of(here.second[0]);
            }
            for (var p = 0u; p < OUT_STRIP; p++) {
                all_first = finish_pixel(all_first, group.z, quad, o, y, x + p, start_first, mask, here.first[p]);
                all_second = finish_pixel(all_second, group.z, quad, o + 4u, y, x + p, start_second, mask, here.second[p]);
            }
            count += dot(mask, vec4(1.0)) * f32(min(OUT_STRIP, OUT_WIDTH - x));
        }
    }
    if (OUT_NORMALISE) {
        store_sums(group.z, part, o, local, count, start_first, all_first);
        store_sums(group.z, part, o + 4u, local, count, start_second, all_second);
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
    for (var place = local; place < PART_QUADS * OUT_HEIGHT * OUT_STRIPS; place += 64u) {
        let quad = part * PART_QUADS + place / (OUT_HEIGHT * OUT_STRIPS);
        if (quad < QUADS) {
            let y = place / OUT_STRIPS % OUT_HEIGHT;
            let x = place % OUT_STRIPS * OUT_STRIP;
            var here = convolved(group.z, quad, tile, y, x);
            for (var p = 0u; p < OUT_STRIP; p++) {
                finish_pixel(none, group.z, quad, tile * CHANNELS, y, x + p, zero, zero, here.first[p]);
                finish_pixel(none, group.z, quad, tile * CHANNELS + 4u, y, x + p, zero, zero, here.second[p]);
            }
        }
    }
}
