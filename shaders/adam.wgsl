// Adam (Kingma and Ba 2015) and, with DECOUPLED, AdamW (Loshchilov and Hutter 2019), as in PyTorch, for all
// parameters of all replicas at once, with t = step + 1:
//   m = BETA1·m + (1 − BETA1)·g;  s = BETA2·s + (1 − BETA2)·g²
//   p = p − rate · (m / (1 − BETA1ᵗ)) / (√(s / (1 − BETA2ᵗ)) + EPS)
// Adam adds weight_decay·p to the gradient g; AdamW multiplies p by 1 − rate·weight_decay first.

override ELEMENTS: u32;
override PARTS: u32; // rows of `grads`, whose sum is the gradient
override STEPS: u32; // of the run
override AVERAGE_DECAY: f32; // of `update_averaged`: see average.wgsl
override CLIP: bool; // the gradient has a factor: see clip.wgsl
override RATES: bool; // layers have factors on their learning rates
override BETA1: f32;
override BETA2: f32;
override EPS: f32;
override DECOUPLED: bool;
// Places in `state`: of words, and of settings among those of a replica.
override THIS_STEP: u32;
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override WEIGHT_DECAY: u32;
override CLIP_FACTOR: u32;
override FIRST_LAYER: u32; // settings of the first layer
override LAYER_SETTINGS: u32; // of a layer
override LAYER_RATE: u32; // among those of a layer

@group(0) @binding(0) var<storage, read_write> params: array<f32>;
@group(0) @binding(1) var<storage, read> grads: array<f32>; // [part, element]
@group(0) @binding(2) var<storage, read_write> first_moment: array<f32>;
@group(0) @binding(3) var<storage, read_write> second_moment: array<f32>;
@group(0) @binding(4) var<storage, read> owners: array<u32>; // per element: 2 · replica, plus 1 if weight decay applies, plus 512 · layer
@group(0) @binding(5) var<storage, read> learning_rates: array<f32>; // [replica, step]
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(6) var<storage, read> state: array<u32>;
@group(0) @binding(7) var<storage, read_write> average: array<f32>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

// 1 − βᵗ by repeated squaring, 1 − β²ᵗ = (1 − βᵗ)(1 + βᵗ): nothing cancels. `1 - pow(beta, time)` would lose most
// digits for β near 1, and WGSL lets pow be far less accurate than a product.
fn correction(beta: f32, time: u32) -> f32 {
    var result = 0.0;
    for (var bits = 32u - countLeadingZeros(time); bits > 0u; bits--) {
        result *= 2.0 - result;
        if (((time >> (bits - 1u)) & 1u) == 1u) {
            result = beta * result + (1.0 - beta);
        }
    }
    return result;
}

// A setting of a replica.
fn setting(replica: u32, index: u32) -> u32 {
    return state[FIRST_SETTING + replica * SETTINGS + index];
}

// The replica of an element.
fn replica_of(index: u32) -> u32 {
    return owners[index] % 512u / 2u;
}

// Learning rate and weight decay of an element.
fn rates(index: u32) -> vec2<f32> {
    let replica = replica_of(index);
    let decay = select(0.0, bitcast<f32>(setting(replica, WEIGHT_DECAY)), owners[index] % 2u == 1u);
    var rate = learning_rates[replica * STEPS + state[THIS_STEP]];
    if (RATES) {
        rate *= bitcast<f32>(setting(replica, FIRST_LAYER + owners[index] / 512u * LAYER_SETTINGS + LAYER_RATE));
    }
    return vec2(rate, decay);
}

fn gradient(index: u32) -> f32 {
    var sum = grads[index];
    for (var part = 1u; part < PARTS; part++) {
        sum += grads[part * ELEMENTS + index];
    }
    if (CLIP) {
        sum *= bitcast<f32>(setting(replica_of(index), CLIP_FACTOR));
    }
    return sum;
}

fn adam(index: u32) -> f32 {
    let rate = rates(index).x;
    let decay = rates(index).y;
    let time = state[THIS_STEP] + 1u;
    let param = params[index] * select(1.0, 1.0 - rate * decay, DECOUPLED);
    let grad = gradient(index) + select(decay * param, 0.0, DECOUPLED);
    let first = BETA1 * first_moment[index] + (1.0 - BETA1) * grad;
    let second = BETA2 * second_moment[index] + (1.0 - BETA2) * grad * grad;
    first_moment[index] = first;
    second_moment[index] = second;
    let step_size = rate / correction(BETA1, time);
    return param - step_size * first / (sqrt(second / correction(BETA2, time)) + EPS);
}

@compute @workgroup_size(64)
fn update(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    params[index] = adam(index);
}

// Also updates the moving average of the parameters, as in average.wgsl.
@compute @workgroup_size(64)
fn update_averaged(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let value = adam(index);
    params[index] = value;
    let steps = f32(state[THIS_STEP]);
    let decay = min(AVERAGE_DECAY, (1.0 + steps) / (10.0 + steps));
    average[index] += (1.0 - decay) * (value - average[index]);
}
