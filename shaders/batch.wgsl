// Makes a batch from the dataset on the device. `begin` chooses the images and how each is augmented, for one step;
// `gather` reads, augments and normalises their pixels. All randomness is a function of (seed, epoch, image).
// `prepare` does both in one launch, and packs the parameters in the layout that the fused kernels load.
// The same arithmetic is in src/batch.rs.

override BATCH_SIZE: u32;
override QUADS: u32;
override CHANNELS: u32;
override HEIGHT: u32;
override WIDTH: u32;
override IMAGE_COUNT: u32; // of the dataset
override STEPS_PER_EPOCH: u32;
override SHUFFLE: bool;
override HALF_BITS: u32; // of the shuffling Feistel network: the smallest h with 4ʰ ≥ IMAGE_COUNT
override AUGMENT: bool; // true if any replica augments its images
override PACKED: u32;
// Places in `state`: of words, and of settings among those of a replica.
override NEXT_STEP: u32;
override THIS_STEP: u32;
override STEP_IMAGES: u32; // images of this step's batch
override PIXEL_SCALE: u32; // of the first channel: normalised = pixel · scale + offset
override PIXEL_OFFSET: u32;
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override SHUFFLE_KEY: u32; // of the random words that shuffle
override AUGMENT_KEY: u32; // of those that change images
override AUGMENT_ROTATE: u32; // largest rotation in radians
override AUGMENT_SHIFT: u32; // largest shift in pixels
override AUGMENT_SCALE: u32; // largest relative change of size
override AUGMENT_SHEAR: u32; // largest shear, columns per row
override PLAIN_FROM: u32; // first epoch whose images stay as they are

@group(0) @binding(0) var<storage, read> images: array<u32>; // bytes [image, channel, row, column], four per word
@group(0) @binding(1) var<storage, read> labels: array<u32>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(2) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> indices: array<u32>; // [replica, n]
@group(0) @binding(5) var<storage, read_write> targets: array<u32>; // [replica, n]
// [replica, n, 6]: source = (a·x + b·y + c, d·x + e·y + f) for the output pixel (x, y)
@group(0) @binding(6) var<storage, read_write> transforms: array<f32>;
@group(0) @binding(7) var<storage, read_write> input: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> params: array<f32>;
// For each value of `packed` in one replica: its index in `params` for replica 0, or NOTHING; and the distance to the
// next replica's.
@group(0) @binding(9) var<storage, read> sources: array<vec2<u32>>;
@group(0) @binding(10) var<storage, read_write> packed: array<vec4<f32>>; // [replica, PACKED]

const NOTHING = 0xffffffffu;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

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

// A random permutation of 0..IMAGE_COUNT: a Feistel network on a square domain, iterated until it lands inside.
fn shuffled(position: u32, key: u32, epoch: u32) -> u32 {
    let mask = (1u << HALF_BITS) - 1u;
    var value = position;
    loop {
        var left = value >> HALF_BITS;
        var right = value & mask;
        for (var round = 0u; round < 4u; round++) {
            let mixed = pcg4d(vec4(right, round, epoch, key)).x & mask;
            let old_right = right;
            right = left ^ mixed;
            left = old_right;
        }
        value = (left << HALF_BITS) | right;
        if (value < IMAGE_COUNT) {
            break;
        }
    }
    return value;
}

// Random words as numbers in [-1, 1).
fn signed_units(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(words >> vec4(8u)) * (1.0 / 8388608.0) - 1.0;
}

// source = (a·x + b·y + c, d·x + e·y + f) for the output pixel (x, y)
struct Transform {
    a: f32,
    b: f32,
    c: f32,
    d: f32,
    e: f32,
    f: f32,
}

fn strength(replica: u32, index: u32) -> f32 {
    return bitcast<f32>(setting(replica, index));
}

// The random transform of an image in an epoch. Where all strengths are 0 it is exactly the identity.
fn drawn(replica: u32, epoch: u32, index: u32) -> Transform {
    if (epoch >= setting(replica, PLAIN_FROM)) {
        return Transform(1.0, 0.0, 0.0, 0.0, 1.0, 0.0);
    }
    let key = setting(replica, AUGMENT_KEY);
    let random = signed_units(pcg4d(vec4(index, 0u, epoch, key)));
    let more = signed_units(pcg4d(vec4(index, 1u, epoch, key)));
    let angle = strength(replica, AUGMENT_ROTATE) * random.x;
    let square = angle * angle;
    // Taylor series: accurate to f32 up to 45°, and the same on every device.
    let sine = angle * (1.0 + square * (-1.0 / 6.0 + square * (1.0 / 120.0 - square * (1.0 / 5040.0))));
    let cosine = 1.0 + square * (-0.5 + square * (1.0 / 24.0 + square * (-1.0 / 720.0 + square * (1.0 / 40320.0))));
    let shrink = 1.0 / (1.0 + strength(replica, AUGMENT_SCALE) * random.w);
    let shear = strength(replica, AUGMENT_SHEAR) * more.x;
    let centre_x = f32(WIDTH - 1u) * 0.5;
    let centre_y = f32(HEIGHT - 1u) * 0.5;
    let from_x = centre_x + strength(replica, AUGMENT_SHIFT) * random.y;
    let from_y = centre_y + strength(replica, AUGMENT_SHIFT) * random.z;
    let a = cosine * shrink;
    let b = (sine + shear * cosine) * shrink;
    let d = -sine * shrink;
    let e = (cosine - shear * sine) * shrink;
    return Transform(a, b, centre_x - (a * from_x + b * from_y), d, e, centre_y - (d * from_x + e * from_y));
}

// Dataset index of image n of a step's batch. Lanes past the last image hold some image too, but never count.
fn chosen(replica: u32, this_step: u32, n: u32) -> u32 {
    let position = (this_step % STEPS_PER_EPOCH * BATCH_SIZE + n) % IMAGE_COUNT;
    if (!SHUFFLE) {
        return position;
    }
    return shuffled(position, setting(replica, SHUFFLE_KEY), this_step / STEPS_PER_EPOCH);
}

fn begin_step(this_step: u32) {
    state[THIS_STEP] = this_step;
    state[STEP_IMAGES] = min(BATCH_SIZE, IMAGE_COUNT - this_step % STEPS_PER_EPOCH * BATCH_SIZE);
}

@compute @workgroup_size(64)
fn begin(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = linear_index(id, groups);
    if (n >= QUADS * 4u) {
        return;
    }
    let this_step = state[NEXT_STEP];
    if (n == 0u && id.z == 0u) {
        begin_step(this_step);
    }
    let index = chosen(id.z, this_step, n);
    let at = id.z * QUADS * 4u + n;
    indices[at] = index;
    targets[at] = labels[index];
    if (AUGMENT) {
        let change = drawn(id.z, this_step / STEPS_PER_EPOCH, index);
        transforms[at * 6u] = change.a;
        transforms[at * 6u + 1u] = change.b;
        transforms[at * 6u + 2u] = change.c;
        transforms[at * 6u + 3u] = change.d;
        transforms[at * 6u + 4u] = change.e;
        transforms[at * 6u + 5u] = change.f;
    }
}

fn pixel(index: u32, channel: u32, y: i32, x: i32) -> f32 {
    let inside = y >= 0 && y < i32(HEIGHT) && x >= 0 && x < i32(WIDTH);
    let row = u32(clamp(y, 0, i32(HEIGHT) - 1));
    let column = u32(clamp(x, 0, i32(WIDTH) - 1));
    let byte = ((index * CHANNELS + channel) * HEIGHT + row) * WIDTH + column;
    let value = (images[byte / 4u] >> (byte % 4u * 8u)) & 255u;
    return select(0.0, f32(value), inside);
}

fn normalised(value: f32, channel: u32) -> f32 {
    return value * bitcast<f32>(state[PIXEL_SCALE + channel]) + bitcast<f32>(state[PIXEL_OFFSET + channel]);
}

fn sample(index: u32, change: Transform, channel: u32, y: u32, x: u32) -> f32 {
    if (!AUGMENT) {
        return normalised(pixel(index, channel, i32(y), i32(x)), channel);
    }
    let place = vec2(f32(x), f32(y));
    let source_x = change.a * place.x + change.b * place.y + change.c;
    let source_y = change.d * place.x + change.e * place.y + change.f;
    let left = floor(source_x);
    let top = floor(source_y);
    let fx = source_x - left;
    let fy = source_y - top;
    let column = i32(left);
    let row = i32(top);
    let upper = pixel(index, channel, row, column) * (1.0 - fx) + pixel(index, channel, row, column + 1) * fx;
    let lower = pixel(index, channel, row + 1, column) * (1.0 - fx) + pixel(index, channel, row + 1, column + 1) * fx;
    return normalised(upper * (1.0 - fy) + lower * fy, channel);
}

// Value of image `at` of the batch, as `begin` chose and augments it.
fn gathered(at: u32, channel: u32, y: u32, x: u32) -> f32 {
    var change: Transform;
    if (AUGMENT) {
        let start = at * 6u;
        change = Transform(transforms[start], transforms[start + 1u], transforms[start + 2u],
                           transforms[start + 3u], transforms[start + 4u], transforms[start + 5u]);
    }
    return sample(indices[at], change, channel, y, x);
}

@compute @workgroup_size(64)
fn gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * CHANNELS * HEIGHT * WIDTH) {
        return;
    }
    let x = index % WIDTH;
    let y = index / WIDTH % HEIGHT;
    let channel = index / (HEIGHT * WIDTH) % CHANNELS;
    let first = (id.z * QUADS + index / (CHANNELS * HEIGHT * WIDTH)) * 4u;
    input[id.z * QUADS * CHANNELS * HEIGHT * WIDTH + index] = vec4(
        gathered(first, channel, y, x),
        gathered(first + 1u, channel, y, x),
        gathered(first + 2u, channel, y, x),
        gathered(first + 3u, channel, y, x),
    );
}

var<workgroup> quad_indices: array<u32, 4>;
var<workgroup> quad_changes: array<Transform, 4>;

fn packed_value(replica: u32, at: u32) -> f32 {
    let source = sources[at];
    return select(params[select(source.x + replica * source.y, 0u, source.x == NOTHING)], 0.0, source.x == NOTHING);
}

// One workgroup per quad of images; the workgroups after those pack the parameters.
@compute @workgroup_size(64)
fn prepare(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if (group.x >= QUADS) {
        let at = (group.x - QUADS) * 64u + local;
        if (at < PACKED) {
            packed[group.z * PACKED + at] = vec4(
                packed_value(group.z, at * 4u),
                packed_value(group.z, at * 4u + 1u),
                packed_value(group.z, at * 4u + 2u),
                packed_value(group.z, at * 4u + 3u),
            );
        }
    } else {
        let this_step = state[NEXT_STEP];
        if (group.x == 0u && group.z == 0u && local == 0u) {
            begin_step(this_step);
        }
        if (local < 4u) {
            let n = group.x * 4u + local;
            let index = chosen(group.z, this_step, n);
            targets[group.z * QUADS * 4u + n] = labels[index];
            quad_indices[local] = index;
            if (AUGMENT) {
                quad_changes[local] = drawn(group.z, this_step / STEPS_PER_EPOCH, index);
            }
        }
        workgroupBarrier();
        let start = (group.z * QUADS + group.x) * CHANNELS * HEIGHT * WIDTH;
        for (var place = local; place < CHANNELS * HEIGHT * WIDTH; place += 64u) {
            let x = place % WIDTH;
            let y = place / WIDTH % HEIGHT;
            let channel = place / (HEIGHT * WIDTH);
            // A loop: some compilers choke on four copies after a barrier.
            var values = vec4(0.0);
            for (var n = 0u; n < 4u; n++) {
                let value = sample(quad_indices[n], quad_changes[n], channel, y, x);
                values = select(values, vec4(value), vec4(0u, 1u, 2u, 3u) == vec4(n));
            }
            input[start + place] = values;
        }
    }
}
