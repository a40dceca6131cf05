// Makes a batch from the dataset on the device. `begin` chooses the images and how each is augmented, for one step;
// `gather` reads, augments and normalises their pixels. All randomness is a function of (seed, epoch, image).
// `prepare` does both in one launch, and packs the parameters in the layout that the fused kernels load.
// The same arithmetic is in src/batch.

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
override ELASTIC: bool; // distorts them
override COLOUR: bool; // changes their colours
override MIX: bool; // mixes them
override PACKED: u32;
// Places in `state`: of words, and of settings among those of a replica.
override NEXT_STEP: u32;
override THIS_STEP: u32;
override STEP_IMAGES: u32; // images of this step's batch
override PIXEL_SCALE: u32; // of the first channel: normalised = pixel · scale + offset
override PIXEL_OFFSET: u32;
override PIXEL_MEAN: u32; // the pixel that becomes 0
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override SHUFFLE_KEY: u32; // of the random words that shuffle
override AUGMENT_KEY: u32; // of those that change images
override AUGMENT_ROTATE: u32; // largest rotation in radians
override AUGMENT_SHIFT: u32; // largest shift in pixels
override AUGMENT_SCALE: u32; // largest relative change of size
override AUGMENT_SHEAR: u32; // largest shear, columns per row
override AUGMENT_FLIP_HORIZONTAL: u32; // random words below it mirror an image
override AUGMENT_FLIP_VERTICAL: u32;
override AUGMENT_PAD: u32; // largest shift by whole pixels
override AUGMENT_CROP: u32; // largest share of the area that is cropped away
override AUGMENT_ASPECT: u32; // binary logarithm of the crop's largest aspect ratio
override AUGMENT_ELASTIC: u32; // largest displacement of a point, in pixels
override AUGMENT_POINTS: u32; // points per pixel
override AUGMENT_BRIGHTNESS: u32; // how far factors are from 1
override AUGMENT_CONTRAST: u32;
override AUGMENT_SATURATION: u32;
override AUGMENT_HUE: u32; // in turns
override AUGMENT_ERASE: u32; // random words below it erase a rectangle
override AUGMENT_ERASE_SIDE: u32; // its longest sides, as shares of the image's, in 1/65536
override MIX_KIND: u32; // 0: none, 1: blended, 2: a rectangle, 3: half of them each
override MIX_WEIGHTS: u32; // 17 quantiles of the other image's weight, in 1/65536
override MIX_SIDES: u32; // 17 quantiles of the rectangle's sides, in 1/65536
override FILL_KIND: u32; // what is moved in: 0 a value, 1 the mean, 2 the nearest pixel, 3 the mirrored image
override FILL_VALUE: u32;
override PLAIN_FROM: u32; // first epoch whose images stay as they are

@group(0) @binding(0) var<storage, read> images: array<u32>; // bytes [image, channel, row, column], four per word
// Of each image the label, in the low 8 bits, and the mean grey in 1/65536, if colours are changed.
@group(0) @binding(1) var<storage, read> labels: array<u32>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(2) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> indices: array<u32>; // [replica, n]
// [replica, n]: the class, that of the image that is mixed in (<< 8), and its share in 1/65536 (<< 16)
@group(0) @binding(5) var<storage, read_write> targets: array<u32>;
@group(0) @binding(6) var<storage, read_write> changes: array<Changes>; // [replica, n]
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

struct Region {
    left: u32,
    top: u32,
    right: u32, // behind the last column
    bottom: u32,
}

// What becomes of an image.
struct Change {
    // source = (a·x + b·y + c, d·x + e·y + f) for the output pixel (x, y)
    a: f32,
    b: f32,
    c: f32,
    d: f32,
    e: f32,
    f: f32,
    elastic: f32, // largest displacement of a point, in pixels
    brightness: f32,
    contrast: f32,
    saturation: f32,
    hue: f32,
    erased: Region,
}

// The change of an image, and of the image that is mixed into it.
struct Changes {
    own: Change,
    other: Change,
    other_index: u32,
    weight: u32, // of the other, in 1/65536
    region: Region, // that comes from the other; none if all pixels are blended
}

const NO_REGION = Region(0u, 0u, 0u, 0u);
const NO_CHANGE = Change(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, NO_REGION);

// What is moved in from outside.
struct Fill {
    kind: u32,
    value: f32,
}

fn strength(replica: u32, index: u32) -> f32 {
    return bitcast<f32>(setting(replica, index));
}

// A random rectangle of this size.
fn placed(width: u32, height: u32, random_x: u32, random_y: u32) -> Region {
    let left = ((WIDTH - width + 1u) * (random_x >> 16u)) >> 16u;
    let top = ((HEIGHT - height + 1u) * (random_y >> 16u)) >> 16u;
    return Region(left, top, left + width, top + height);
}

// A side of an erased rectangle: from a quarter of the longest to all of it.
fn erased_side(replica: u32, random: u32, whole: u32) -> u32 {
    let share = (setting(replica, AUGMENT_ERASE_SIDE) * (0x4000u + (((random >> 16u) * 3u) >> 2u))) >> 16u;
    return clamp((whole * share + 0x8000u) >> 16u, 1u, whole);
}

fn whole_shift(replica: u32, random: u32) -> f32 {
    let most = setting(replica, AUGMENT_PAD);
    return f32(((random >> 16u) * (2u * most + 1u)) >> 16u) - f32(most);
}

fn unit(word: u32) -> f32 {
    return f32(word >> 8u) * (1.0 / 16777216.0);
}

fn factor(replica: u32, index: u32, random: f32) -> f32 {
    return 1.0 + strength(replica, index) * random;
}

// The random change of an image in an epoch. Where all strengths are 0 it is exactly none. src/batch/change.rs has the same.
fn drawn(replica: u32, epoch: u32, index: u32) -> Change {
    let key = setting(replica, AUGMENT_KEY);
    let random = signed_units(pcg4d(vec4(index, 0u, epoch, key)));
    let words1 = pcg4d(vec4(index, 1u, epoch, key));
    let words2 = pcg4d(vec4(index, 2u, epoch, key));
    let words3 = pcg4d(vec4(index, 3u, epoch, key));
    let words4 = pcg4d(vec4(index, 4u, epoch, key));
    let more = signed_units(words1);
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
    var a = cosine * shrink;
    var b = (sine + shear * cosine) * shrink;
    var d = -sine * shrink;
    var e = (cosine - shear * sine) * shrink;
    var c = centre_x - (a * from_x + b * from_y);
    var f = centre_y - (d * from_x + e * from_y);
    if (words1.y < setting(replica, AUGMENT_FLIP_HORIZONTAL)) {
        c = a * f32(WIDTH - 1u) + c;
        f = d * f32(WIDTH - 1u) + f;
        a = -a;
        d = -d;
    }
    if (words1.z < setting(replica, AUGMENT_FLIP_VERTICAL)) {
        c = b * f32(HEIGHT - 1u) + c;
        f = e * f32(HEIGHT - 1u) + f;
        b = -b;
        e = -e;
    }
    c += whole_shift(replica, words1.w);
    f += whole_shift(replica, words2.x);
    let crop = strength(replica, AUGMENT_CROP);
    let widest = strength(replica, AUGMENT_ASPECT);
    if (crop > 0.0 || widest > 0.0) {
        let area = 1.0 - crop * unit(words2.y);
        let aspect = exp2(widest * signed_units(words2).z);
        let width = min(sqrt(area * aspect), 1.0);
        let height = min(sqrt(area / aspect), 1.0);
        // Pixels are squares around whole coordinates, so the image begins at -1/2.
        let start_x = 0.5 * width - 0.5 + f32(WIDTH) * (1.0 - width) * unit(words2.w);
        let start_y = 0.5 * height - 0.5 + f32(HEIGHT) * (1.0 - height) * unit(words3.x);
        a *= width;
        b *= width;
        c = width * c + start_x;
        d *= height;
        e *= height;
        f = height * f + start_y;
    }
    let colour = signed_units(words3);
    var erased = NO_REGION;
    if (words4.y < setting(replica, AUGMENT_ERASE)) {
        let words5 = pcg4d(vec4(index, 5u, epoch, key));
        erased = placed(erased_side(replica, words4.z, WIDTH), erased_side(replica, words4.w, HEIGHT), words5.x, words5.y);
    }
    return Change(a, b, c, d, e, f, strength(replica, AUGMENT_ELASTIC),
                  factor(replica, AUGMENT_BRIGHTNESS, colour.y), factor(replica, AUGMENT_CONTRAST, colour.z),
                  factor(replica, AUGMENT_SATURATION, colour.w), strength(replica, AUGMENT_HUE) * signed_units(words4).x,
                  erased);
}

// A value drawn by its quantiles, the first of which is a setting, and between which it is uniform.
fn by_quantiles(replica: u32, first: u32, word: u32) -> u32 {
    let low = setting(replica, first + (word >> 28u));
    let high = setting(replica, first + (word >> 28u) + 1u);
    return low + (((high - low) * ((word >> 12u) & 0xffffu)) >> 16u);
}

// All changes of an image in an epoch.
fn all_drawn(replica: u32, epoch: u32, index: u32) -> Changes {
    var made = Changes(NO_CHANGE, NO_CHANGE, index, 0u, NO_REGION);
    if (epoch >= setting(replica, PLAIN_FROM)) {
        return made;
    }
    made.own = drawn(replica, epoch, index);
    let kind = setting(replica, MIX_KIND);
    if (!MIX || kind == 0u) {
        return made;
    }
    let key = setting(replica, AUGMENT_KEY);
    let words = pcg4d(vec4(index, 6u, epoch, key));
    made.other_index = words.x % IMAGE_COUNT;
    made.other = drawn(replica, epoch, made.other_index);
    if (kind == 2u || (kind == 3u && pcg4d(vec4(index, 5u, epoch, key)).z < 0x80000000u)) {
        let side = by_quantiles(replica, MIX_SIDES, words.y);
        let width = (WIDTH * side) >> 16u;
        let height = (HEIGHT * side) >> 16u;
        made.region = placed(width, height, words.z, words.w);
        made.weight = width * height * 256u / (WIDTH * HEIGHT) * 256u;
    } else {
        made.weight = by_quantiles(replica, MIX_WEIGHTS, words.y);
    }
    return made;
}

// What the loss is told.
fn target_word(index: u32, change: Changes) -> u32 {
    let class_index = labels[index] & 255u;
    if (!AUGMENT || change.weight == 0u) {
        return class_index;
    }
    return class_index | ((labels[change.other_index] & 255u) << 8u) | (change.weight << 16u);
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
    var change: Changes;
    if (AUGMENT) {
        change = all_drawn(id.z, this_step / STEPS_PER_EPOCH, index);
        changes[at] = change;
    }
    targets[at] = target_word(index, change);
}

// Where a place outside 0..size falls if the image is mirrored at its outermost pixels.
fn reflected(place: i32, size: i32) -> i32 {
    let period = max(2 * size - 2, 1);
    let within = abs(place) % period;
    return min(min(within, period - within), size - 1);
}

fn pixel(index: u32, fill: Fill, channel: u32, y: i32, x: i32) -> f32 {
    let inside = y >= 0 && y < i32(HEIGHT) && x >= 0 && x < i32(WIDTH);
    var row = clamp(y, 0, i32(HEIGHT) - 1);
    var column = clamp(x, 0, i32(WIDTH) - 1);
    if (AUGMENT && fill.kind == 3u) {
        row = reflected(y, i32(HEIGHT));
        column = reflected(x, i32(WIDTH));
    }
    let byte = ((index * CHANNELS + channel) * HEIGHT + u32(row)) * WIDTH + u32(column);
    let value = f32((images[byte / 4u] >> (byte % 4u * 8u)) & 255u);
    if (!AUGMENT || inside || fill.kind >= 2u) {
        return value;
    }
    return select(fill.value, mean_pixel(channel), fill.kind == 1u);
}

fn mean_pixel(channel: u32) -> f32 {
    return bitcast<f32>(state[PIXEL_MEAN + channel]);
}

fn normalised(value: f32, channel: u32) -> f32 {
    return value * bitcast<f32>(state[PIXEL_SCALE + channel]) + bitcast<f32>(state[PIXEL_OFFSET + channel]);
}

fn contains(region: Region, y: u32, x: u32) -> bool {
    return x >= region.left && x < region.right && y >= region.top && y < region.bottom;
}

// Displacement of a point of the grid.
fn at_point(key: u32, epoch: u32, index: u32, column: u32, row: u32) -> vec2<f32> {
    return signed_units(pcg4d(vec4(index, 16u + row * 4096u + column, epoch, key))).xy;
}

// Displacement of a pixel: random at the points of a grid, and smooth between them.
fn displaced(replica: u32, epoch: u32, index: u32, pixels: f32, y: u32, x: u32) -> vec2<f32> {
    let key = setting(replica, AUGMENT_KEY);
    let place = vec2(f32(x), f32(y)) * strength(replica, AUGMENT_POINTS);
    let corner = floor(place);
    let t = place - corner;
    let share = t * t * (3.0 - 2.0 * t);
    let column = u32(corner.x);
    let row = u32(corner.y);
    let upper = at_point(key, epoch, index, column, row) * (1.0 - share.x)
        + at_point(key, epoch, index, column + 1u, row) * share.x;
    let lower = at_point(key, epoch, index, column, row + 1u) * (1.0 - share.x)
        + at_point(key, epoch, index, column + 1u, row + 1u) * share.x;
    return (upper * (1.0 - share.y) + lower * share.y) * pixels;
}

fn interpolated(index: u32, fill: Fill, channel: u32, source: vec2<f32>) -> f32 {
    let left = floor(source.x);
    let top = floor(source.y);
    let fx = source.x - left;
    let fy = source.y - top;
    let column = i32(left);
    let row = i32(top);
    let upper = pixel(index, fill, channel, row, column) * (1.0 - fx) + pixel(index, fill, channel, row, column + 1) * fx;
    let lower = pixel(index, fill, channel, row + 1, column) * (1.0 - fx) + pixel(index, fill, channel, row + 1, column + 1) * fx;
    return upper * (1.0 - fy) + lower * fy;
}

fn shown(value: vec3<f32>) -> vec3<f32> {
    return clamp(value, vec3(0.0), vec3(255.0));
}

// HSV (Smith 1978) without its divisions: with the hue times the chroma, H from 0 to 6c, a channel is
// max − clamp(min(K, 4c − K), 0, c) for K = H + 6c·turn + n·c modulo 6c, n = 5, 3, 1.
fn turned(rgb: vec3<f32>, turn: f32) -> vec3<f32> {
    let most = max(max(rgb.x, rgb.y), rgb.z);
    let chroma = most - min(min(rgb.x, rgb.y), rgb.z);
    var hue = rgb.x - rgb.y + 4.0 * chroma;
    if (most == rgb.x) {
        hue = rgb.y - rgb.z;
    } else if (most == rgb.y) {
        hue = rgb.z - rgb.x + 2.0 * chroma;
    }
    var place = hue + 6.0 * chroma * turn + chroma * vec3(5.0, 3.0, 1.0);
    let circle = 6.0 * chroma;
    place = select(place, place + circle, place < vec3(0.0));
    place = select(place, place - circle, place >= vec3(circle));
    place = select(place, place - circle, place >= vec3(circle));
    return most - clamp(min(place, 4.0 * chroma - place), vec3(0.0), vec3(chroma));
}

// A pixel with its brightness, contrast, saturation and hue changed, as torchvision's `adjust_...` do it.
fn coloured(value: vec3<f32>, mean_grey: f32, change: Change) -> vec3<f32> {
    let pivot = clamp(mean_grey * change.brightness, 0.0, 255.0);
    let bright = shown(shown(value * change.brightness) * change.contrast + pivot * (1.0 - change.contrast));
    if (CHANNELS != 3u) {
        return bright;
    }
    let grey = bright.x * 0.2989 + bright.y * 0.587 + bright.z * 0.114;
    let saturated = shown(bright * change.saturation + grey * (1.0 - change.saturation));
    if (change.hue == 0.0) {
        return saturated;
    }
    return turned(saturated, change.hue);
}

// Pixel (x, y) of a changed image.
fn changed(replica: u32, epoch: u32, index: u32, change: Change, channel: u32, y: u32, x: u32) -> f32 {
    if (contains(change.erased, y, x)) {
        return mean_pixel(channel);
    }
    let fill = Fill(setting(replica, FILL_KIND), strength(replica, FILL_VALUE));
    let place = vec2(f32(x), f32(y));
    var source = vec2(change.a * place.x + change.b * place.y + change.c,
                      change.d * place.x + change.e * place.y + change.f);
    if (ELASTIC) {
        source += displaced(replica, epoch, index, change.elastic, y, x);
    }
    if (!COLOUR) {
        return interpolated(index, fill, channel, source);
    }
    // One place for all channels: compilers copy every call.
    var value = vec3(0.0);
    let first = select(channel, 0u, CHANNELS == 3u);
    let count = select(1u, 3u, CHANNELS == 3u);
    for (var c = 0u; c < count; c++) {
        value[c] = interpolated(index, fill, first + c, source);
    }
    let mean_grey = f32(labels[index] >> 8u) * (1.0 / 65536.0);
    return coloured(value, mean_grey, change)[channel - first];
}

// What the network sees of an image.
fn sample(replica: u32, epoch: u32, index: u32, change: Changes, channel: u32, y: u32, x: u32) -> f32 {
    if (!AUGMENT) {
        return normalised(pixel(index, Fill(0u, 0.0), channel, i32(y), i32(x)), channel);
    }
    var weight = 0.0; // of the other image
    if (MIX) {
        weight = f32(change.weight) * (1.0 / 65536.0);
        if (change.region.right > 0u) {
            weight = select(0.0, 1.0, contains(change.region, y, x));
        }
    }
    var value = 0.0;
    var source = index;
    var of_source = change.own;
    var share = 1.0 - weight;
    for (var image = 0u; image < select(1u, 2u, MIX); image++) {
        if (share > 0.0) {
            value += changed(replica, epoch, source, of_source, channel, y, x) * share;
        }
        source = change.other_index;
        of_source = change.other;
        share = weight;
    }
    return normalised(value, channel);
}

// Value of image `at` of the batch, as `begin` chose and augments it.
fn gathered(replica: u32, at: u32, channel: u32, y: u32, x: u32) -> f32 {
    var change: Changes;
    if (AUGMENT) {
        change = changes[at];
    }
    return sample(replica, state[THIS_STEP] / STEPS_PER_EPOCH, indices[at], change, channel, y, x);
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
    var values = vec4(0.0);
    for (var n = 0u; n < 4u; n++) {
        values[n] = gathered(id.z, first + n, channel, y, x);
    }
    input[id.z * QUADS * CHANNELS * HEIGHT * WIDTH + index] = values;
}

var<workgroup> quad_indices: array<u32, 4>;
var<workgroup> quad_changes: array<Changes, 4>;

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
            var change: Changes;
            if (AUGMENT) {
                change = all_drawn(group.z, this_step / STEPS_PER_EPOCH, index);
                quad_changes[local] = change;
            }
            targets[group.z * QUADS * 4u + n] = target_word(index, change);
            quad_indices[local] = index;
        }
        workgroupBarrier();
        let epoch = this_step / STEPS_PER_EPOCH;
        let start = (group.z * QUADS + group.x) * CHANNELS * HEIGHT * WIDTH;
        for (var place = local; place < CHANNELS * HEIGHT * WIDTH; place += 64u) {
            let x = place % WIDTH;
            let y = place / WIDTH % HEIGHT;
            let channel = place / (HEIGHT * WIDTH);
            // A loop: some compilers choke on four copies after a barrier.
            var values = vec4(0.0);
            for (var n = 0u; n < 4u; n++) {
                let value = sample(group.z, epoch, quad_indices[n], quad_changes[n], channel, y, x);
                values = select(values, vec4(value), vec4(0u, 1u, 2u, 3u) == vec4(n));
            }
            input[start + place] = values;
        }
    }
}
