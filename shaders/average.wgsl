// Exponential moving average: average = d · average + (1 − d) · value, d = min(DECAY, (1 + step) / (10 + step)).

override ELEMENTS: u32;
override DECAY: f32;
// Places in `state`.
override THIS_STEP: u32;

@group(0) @binding(0) var<storage, read_write> average: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(2) var<storage, read> state: array<u32>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

@compute @workgroup_size(64)
fn update(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let steps = f32(state[THIS_STEP]);
    let decay = min(DECAY, (1.0 + steps) / (10.0 + steps));
    average[index] += (1.0 - decay) * (values[index] - average[index]);
}
