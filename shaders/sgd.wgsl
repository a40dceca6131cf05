// Stochastic gradient descent with momentum, as in PyTorch, for all parameters of all replicas at once:
//   g = grad + weight_decay · p;  v = MOMENTUM · v + g;  p = p − rate · (v, or g + MOMENTUM · v with Nesterov)

override ELEMENTS: u32;
override PARTS: u32; // rows of `grads`, whose sum is the gradient
override STEPS: u32; // of the run
override AVERAGE_DECAY: f32; // of `update_averaged`: see average.wgsl
override CLIP: bool; // the gradient has a factor: see clip.wgsl
override RATES: bool; // layers have factors on their learning rates
override MOMENTUM: f32;
override NESTEROV: bool;
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
@group(0) @binding(2) var<storage, read_write> velocity: array<f32>;
@group(0) @binding(3) var<storage, read> owners: array<u32>; // per element: 2 · replica, plus 1 if weight decay applies, plus 512 · layer
@group(0) @binding(4) var<storage, read> learning_rates: array<f32>; // [replica, step]
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(5) var<storage, read> state: array<u32>;
@group(0) @binding(6) var<storage, read_write> average: array<f32>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
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

fn sgd(index: u32) -> f32 {
    let param = params[index];
    let rate_and_decay = rates(index);
    let grad = gradient(index) + rate_and_decay.y * param;
    let moved = MOMENTUM * velocity[index] + grad;
    velocity[index] = moved;
    return param - rate_and_decay.x * select(moved, grad + MOMENTUM * moved, NESTEROV);
}

@compute @workgroup_size(64)
fn update(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    params[index] = sgd(index);
}

// Also updates the moving average of the parameters, as in average.wgsl.
@compute @workgroup_size(64)
fn update_averaged(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let value = sgd(index);
    params[index] = value;
    let steps = f32(state[THIS_STEP]);
    let decay = min(AVERAGE_DECAY, (1.0 + steps) / (10.0 + steps));
    average[index] += (1.0 - decay) * (value - average[index]);
}
