// The end of a network in one launch: mean over PIXELS, linear layer, log-softmax and loss (formulas:
// cross_entropy.wgsl), and in training the gradient down to the input.
//   mean[k] = Σ input[k, pixel] / PIXELS;  logits[j] = bias[j] + Σ k  weight[j,k] · mean[k]
// A 1x1 convolution before the global mean equals a linear layer after it. One workgroup per part of the batch.

override QUADS: u32;
override PARTS: u32;
override CHANNELS: u32;
override PIXELS: u32;
override CLASSES: u32;
override HAS_BIAS: bool;
override PACKED: u32; // vec4s per replica in `packed`
override WEIGHT: u32; // first vec4 of this layer's weights [j, k]; likewise its bias
override BIAS: u32;
override GRADS: u32; // elements per row of `grads`
override GRAD_WEIGHT: u32;
override GRAD_BIAS: u32;
override RING: u32; // steps in `metrics_ring`
override WEIGHTED: bool; // classes have weights
// Places in `state`: of words, and of settings among those of a replica.
override NEXT_STEP: u32;
override THIS_STEP: u32;
override STEP_IMAGES: u32; // images of this step's batch
override CLASS_WEIGHTS: u32; // of the first class
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override LABEL_SMOOTHING: u32;
override TOTAL_WEIGHT: u32; // of the batch, which cross_entropy.wgsl's `weigh` writes

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // [replica, quad, k, pixel]
@group(0) @binding(1) var<storage, read> packed: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> targets: array<vec4<u32>>; // [replica, quad]: see `smoothed`
@group(0) @binding(3) var<storage, read_write> logits: array<vec4<f32>>; // [replica, quad, class]
@group(0) @binding(4) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> grads: array<f32>; // [part, element]
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(6) var<storage, read_write> state: array<u32>;
// Ring of [step, replica, quad]: sum of the losses, hits.
@group(0) @binding(7) var<storage, read_write> metrics_ring: array<vec2<f32>>;

override REPLICAS: u32;
override PART_QUADS: u32 = (QUADS + PARTS - 1u) / PARTS;
override SHARE: f32 = 1.0 / f32(PIXELS);

const MOST_CHANNELS = 512u;
const MOST_CLASSES = 256u;

var<workgroup> means: array<vec4<f32>, MOST_CHANNELS>;
var<workgroup> values: array<vec4<f32>, MOST_CLASSES>; // logits, then their gradient
var<workgroup> softmax_max: vec4<f32>;
var<workgroup> softmax_total: vec4<f32>;

// 1 for the lanes of a quad that hold an image of the batch, 0 for the others.
fn lane_mask(quad: u32, images: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), vec4(0u, 1u, 2u, 3u) + quad * 4u < vec4(images));
}

// A setting of a replica.
fn setting(replica: u32, index: u32) -> u32 {
    return state[FIRST_SETTING + replica * SETTINGS + index];
}

// Element number `index` of a parameter that starts at vec4 `start` of the packed ones.
fn param(replica: u32, start: u32, index: u32) -> f32 {
    return packed[replica * PACKED + start + index / 4u][index % 4u];
}

fn linear_layer(replica: u32, quad: u32, local: u32) {
    for (var k = local; k < CHANNELS; k += 64u) {
        let start = ((replica * QUADS + quad) * CHANNELS + k) * PIXELS;
        var sum = vec4(0.0);
        for (var pixel = 0u; pixel < PIXELS; pixel++) {
            sum += input[start + pixel];
        }
        means[k] = sum * SHARE;
    }
    workgroupBarrier();
    for (var j = local; j < CLASSES; j += 64u) {
        var sum = vec4(0.0);
        if (HAS_BIAS) {
            sum = vec4(param(replica, BIAS, j));
        }
        for (var k = 0u; k < CHANNELS; k++) {
            sum += param(replica, WEIGHT, j * CHANNELS + k) * means[k];
        }
        values[j] = sum;
        logits[(replica * QUADS + quad) * CLASSES + j] = sum;
    }
    workgroupBarrier();
}

// q of a class. A target has its class in the low 8 bits, above it the class of what is mixed in, then its share in 1/65536.
fn smoothed(wanted: vec4<u32>, class_index: u32, smoothing: f32) -> vec4<f32> {
    let other = vec4<f32>(wanted >> vec4(16u)) * (1.0 / 65536.0);
    let own = select(vec4(0.0), 1.0 - other, (wanted & vec4(255u)) == vec4(class_index));
    let mixed = select(vec4(0.0), other, ((wanted >> vec4(8u)) & vec4(255u)) == vec4(class_index));
    return (1.0 - smoothing) * (own + mixed) + smoothing / f32(CLASSES);
}

// That times the weight of the class.
fn weighed(wanted: vec4<u32>, class_index: u32, smoothing: f32) -> vec4<f32> {
    let q = smoothed(wanted, class_index, smoothing);
    return select(q, q * bitcast<f32>(state[CLASS_WEIGHTS + class_index]), WEIGHTED);
}

// Losses and hits of a quad, computed by one invocation.
fn judge(replica: u32, quad: u32, smoothing: f32) {
    let wanted = targets[replica * QUADS + quad];
    var max_logit = values[0];
    var best = vec4(0u);
    for (var j = 1u; j < CLASSES; j++) {
        let wins = values[j] > max_logit;
        max_logit = select(max_logit, values[j], wins);
        best = select(best, vec4(j), wins);
    }
    var total = vec4(0.0);
    for (var j = 0u; j < CLASSES; j++) {
        total += exp(values[j] - max_logit);
    }
    let log_total = log(total);
    var loss = vec4(0.0);
    for (var j = 0u; j < CLASSES; j++) {
        loss += weighed(wanted, j, smoothing) * (log_total - (values[j] - max_logit));
    }
    if (WEIGHTED) {
        loss *= f32(state[STEP_IMAGES]) / bitcast<f32>(setting(replica, TOTAL_WEIGHT));
    }
    softmax_max = max_logit;
    softmax_total = total;
    let mask = lane_mask(quad, state[STEP_IMAGES]);
    let hits = select(vec4(0.0), mask, best == (wanted & vec4(255u)));
    metrics_ring[(state[THIS_STEP] % RING * REPLICAS + replica) * QUADS + quad] = vec2(dot(loss, mask), dot(hits, vec4(1.0)));
}

fn end_step(group: vec3<u32>, local: u32) {
    if (group.x == 0u && group.z == 0u && local == 0u) {
        state[NEXT_STEP] = state[THIS_STEP] + 1u;
    }
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let smoothing = bitcast<f32>(setting(group.z, LABEL_SMOOTHING));
    for (var n = 0u; n < PART_QUADS; n++) {
        let quad = min(group.x * PART_QUADS + n, QUADS - 1u);
        let is_new = group.x * PART_QUADS + n < QUADS;
        linear_layer(group.z, quad, local);
        if (local == 0u) {
            judge(group.z, quad, smoothing);
        }
        workgroupBarrier();
        let wanted = targets[group.z * QUADS + quad];
        let mask = lane_mask(quad, state[STEP_IMAGES]);
        if (WEIGHTED) {
            let share = mask / bitcast<f32>(setting(group.z, TOTAL_WEIGHT));
            var all = vec4(0.0);
            for (var j = 0u; j < CLASSES; j++) {
                all += weighed(wanted, j, smoothing);
            }
            for (var j = local; j < CLASSES; j += 64u) {
                let p = exp(values[j] - softmax_max) / softmax_total;
                values[j] = (all * p - weighed(wanted, j, smoothing)) * share;
            }
        } else {
            let share = mask / f32(state[STEP_IMAGES]);
            for (var j = local; j < CLASSES; j += 64u) {
                let p = exp(values[j] - softmax_max) / softmax_total;
                values[j] = (p - smoothed(wanted, j, smoothing)) * share;
            }
        }
        workgroupBarrier();
        for (var k = local; k < CHANNELS; k += 64u) {
            var sum = vec4(0.0);
            for (var j = 0u; j < CLASSES; j++) {
                sum += param(group.z, WEIGHT, j * CHANNELS + k) * values[j];
            }
            let start = ((group.z * QUADS + quad) * CHANNELS + k) * PIXELS;
            for (var pixel = 0u; pixel < PIXELS; pixel++) {
                grad_input[start + pixel] = sum * SHARE;
            }
        }
        // A part without quads of its own writes zeros.
        let counts = select(0.0, 1.0, is_new);
        let row = group.x * GRADS;
        for (var index = local; index < CLASSES * CHANNELS; index += 64u) {
            let at = row + GRAD_WEIGHT + group.z * CLASSES * CHANNELS + index;
            let before = select(grads[at], 0.0, n == 0u);
            grads[at] = before + counts * dot(values[index / CHANNELS], means[index % CHANNELS]);
        }
        if (HAS_BIAS) {
            for (var j = local; j < CLASSES; j += 64u) {
                let at = row + GRAD_BIAS + group.z * CLASSES + j;
                let before = select(grads[at], 0.0, n == 0u);
                grads[at] = before + counts * dot(values[j], vec4(1.0));
            }
        }
        workgroupBarrier();
    }
    end_step(group, local);
}

@compute @workgroup_size(64)
fn forward_eval(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var n = 0u; n < PART_QUADS; n++) {
        let quad = min(group.x * PART_QUADS + n, QUADS - 1u);
        linear_layer(group.z, quad, local);
        if (local == 0u) {
            judge(group.z, quad, 0.0);
        }
        workgroupBarrier();
    }
    end_step(group, local);
}
