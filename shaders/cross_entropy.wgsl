// Log-softmax and negative log-likelihood with label smoothing, for the images of the batch:
//   p = softmax(logits);  q = (1 − smoothing) · target + smoothing / CLASSES
// where target is one-hot, or a mixture of two that are. The class with the larger share is the right answer.
//   loss = −Σ q · log p, one value per image;  grad_logits = (p − q) / images, the gradient of the mean
// With weights w of the classes (WEIGHTED), as in PyTorch, and scaled so that the mean of the losses is the batch's:
//   W = Σ over the batch of w[target], by the shares of a mixture;  loss = −Σ w · q · log p · images / W;  grad_logits = (Σ (w · q) · p − w · q) / W
// Lanes past the last image get loss and gradient 0. `metrics` sums over a step and advances the state.

override QUADS: u32;
override CLASSES: u32;
override BATCH_SIZE: u32;
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
override TOTAL_WEIGHT: u32; // W, which `weigh` writes

@group(0) @binding(0) var<storage, read> logits: array<vec4<f32>>; // [replica, quad, class]
@group(0) @binding(1) var<storage, read> targets: array<vec4<u32>>; // [replica, quad]: see `smoothed`
@group(0) @binding(2) var<storage, read_write> loss: array<vec4<f32>>; // [replica, quad]
@group(0) @binding(3) var<storage, read_write> correct: array<vec4<f32>>; // [replica, quad]: 1 for a hit
@group(0) @binding(4) var<storage, read_write> grad_logits: array<vec4<f32>>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(5) var<storage, read_write> state: array<u32>;
// Ring of [step, replica]: sum of the losses, hits.
@group(0) @binding(6) var<storage, read_write> metrics_ring: array<vec2<f32>>;

var<workgroup> tree: array<vec2<f32>, 64>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

// 1 for the lanes of a quad that hold an image of the batch, 0 for the others.
fn lane_mask(quad: u32, images: u32) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), vec4(0u, 1u, 2u, 3u) + quad * 4u < vec4(images));
}

// A setting of a replica.
fn setting(replica: u32, index: u32) -> u32 {
    return state[FIRST_SETTING + replica * SETTINGS + index];
}

// q of a class. A target has its class in the low 8 bits, above it the class of what is mixed in, then its share in 1/65536.
fn smoothed(wanted: vec4<u32>, class_index: u32, smoothing: f32) -> vec4<f32> {
    let other = vec4<f32>(wanted >> vec4(16u)) * (1.0 / 65536.0);
    let own = select(vec4(0.0), 1.0 - other, (wanted & vec4(255u)) == vec4(class_index));
    let mixed = select(vec4(0.0), other, ((wanted >> vec4(8u)) & vec4(255u)) == vec4(class_index));
    return (1.0 - smoothing) * (own + mixed) + smoothing / f32(CLASSES);
}

// w · q of a class.
fn weighed(wanted: vec4<u32>, class_index: u32, smoothing: f32) -> vec4<f32> {
    let q = smoothed(wanted, class_index, smoothing);
    return select(q, q * bitcast<f32>(state[CLASS_WEIGHTS + class_index]), WEIGHTED);
}

struct Softmax {
    max: vec4<f32>,
    total: vec4<f32>, // Σ exp(logit − max)
}

// Writes loss and hits of a quad of images.
fn losses(replica: u32, quad: u32, smoothing: f32) -> Softmax {
    let start = (replica * QUADS + quad) * CLASSES;
    let wanted = targets[replica * QUADS + quad];
    var max_logit = logits[start];
    var best = vec4(0u);
    for (var class_index = 1u; class_index < CLASSES; class_index++) {
        let value = logits[start + class_index];
        let wins = value > max_logit;
        max_logit = select(max_logit, value, wins);
        best = select(best, vec4(class_index), wins);
    }
    var total = vec4(0.0);
    for (var class_index = 0u; class_index < CLASSES; class_index++) {
        total += exp(logits[start + class_index] - max_logit);
    }
    let log_total = log(total);
    var sum = vec4(0.0);
    for (var class_index = 0u; class_index < CLASSES; class_index++) {
        sum += weighed(wanted, class_index, smoothing) * (log_total - (logits[start + class_index] - max_logit));
    }
    let mask = lane_mask(quad, state[STEP_IMAGES]);
    if (WEIGHTED) {
        sum *= f32(state[STEP_IMAGES]) / bitcast<f32>(setting(replica, TOTAL_WEIGHT));
    }
    loss[replica * QUADS + quad] = sum * mask;
    correct[replica * QUADS + quad] = select(vec4(0.0), mask, best == (wanted & vec4(255u)));
    return Softmax(max_logit, total);
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quad = linear_index(id, groups);
    if (quad >= QUADS) {
        return;
    }
    let smoothing = bitcast<f32>(setting(id.z, LABEL_SMOOTHING));
    let softmax = losses(id.z, quad, smoothing);
    let start = (id.z * QUADS + quad) * CLASSES;
    let wanted = targets[id.z * QUADS + quad];
    let mask = lane_mask(quad, state[STEP_IMAGES]);
    if (!WEIGHTED) {
        let share = mask / f32(state[STEP_IMAGES]);
        for (var class_index = 0u; class_index < CLASSES; class_index++) {
            let p = exp(logits[start + class_index] - softmax.max) / softmax.total;
            let q = smoothed(wanted, class_index, smoothing);
            grad_logits[start + class_index] = (p - q) * share;
        }
        return;
    }
    let share = mask / bitcast<f32>(setting(id.z, TOTAL_WEIGHT));
    var all = vec4(0.0);
    for (var class_index = 0u; class_index < CLASSES; class_index++) {
        all += weighed(wanted, class_index, smoothing);
    }
    for (var class_index = 0u; class_index < CLASSES; class_index++) {
        let p = exp(logits[start + class_index] - softmax.max) / softmax.total;
        grad_logits[start + class_index] = (all * p - weighed(wanted, class_index, smoothing)) * share;
    }
}

fn weights_of(classes: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(state[CLASS_WEIGHTS + classes.x], state[CLASS_WEIGHTS + classes.y],
                                   state[CLASS_WEIGHTS + classes.z], state[CLASS_WEIGHTS + classes.w]));
}

// W: what the images of the batch count together. One workgroup per replica.
@compute @workgroup_size(64)
fn weigh(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var quad = local; quad < QUADS; quad += 64u) {
        let wanted = targets[group.z * QUADS + quad];
        let other = vec4<f32>(wanted >> vec4(16u)) * (1.0 / 65536.0);
        let weights = mix(weights_of(wanted & vec4(255u)), weights_of((wanted >> vec4(8u)) & vec4(255u)), other);
        sum += dot(weights, lane_mask(quad, state[STEP_IMAGES]));
    }
    tree[local] = vec2(sum, 0.0);
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
    if (local == 0u) {
        state[FIRST_SETTING + group.z * SETTINGS + TOTAL_WEIGHT] = bitcast<u32>(tree[0].x);
    }
}

@compute @workgroup_size(64)
fn forward_eval(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let quad = linear_index(id, groups);
    if (quad >= QUADS) {
        return;
    }
    losses(id.z, quad, 0.0);
}

// One workgroup per replica.
@compute @workgroup_size(64)
fn metrics(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    var sum = vec2(0.0);
    for (var quad = local; quad < QUADS; quad += 64u) {
        let at = group.z * QUADS + quad;
        sum += vec2(dot(loss[at], vec4(1.0)), dot(correct[at], vec4(1.0)));
    }
    tree[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
    if (local == 0u) {
        let this_step = state[THIS_STEP];
        metrics_ring[this_step % RING * groups.z + group.z] = tree[0];
        if (group.z == 0u) {
            state[NEXT_STEP] = this_step + 1u;
        }
    }
}
