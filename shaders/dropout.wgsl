// In training a value is zeroed with probability rate, otherwise multiplied by 1 / (1 − rate).
// The mask is not stored: both passes draw the same random words, a function of (seed, layer, step, image, element).

override ELEMENTS: u32; // vec4s of one replica
override IMAGE_ELEMENTS: u32; // values of one image
// Places in `state`: of words, and of settings among those of a replica.
override THIS_STEP: u32;
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override DROPOUT_KEY: u32; // of this layer's random words
override DROPOUT_THRESHOLD: u32; // rate · 2³²
override DROPOUT_SCALE: u32; // 1 / (1 − rate)

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;
// words about the step and the channels, then SETTINGS for each replica: src/state.rs
@group(0) @binding(4) var<storage, read> state: array<u32>;

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

fn masked(value: vec4<f32>, index: u32, replica: u32) -> vec4<f32> {
    let key = setting(replica, DROPOUT_KEY);
    let threshold = setting(replica, DROPOUT_THRESHOLD);
    let scale = bitcast<f32>(setting(replica, DROPOUT_SCALE));
    let words = pcg4d(vec4(index % IMAGE_ELEMENTS, index / IMAGE_ELEMENTS, state[THIS_STEP], key));
    return select(vec4(0.0), value * scale, words >= vec4(threshold));
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    output[id.z * ELEMENTS + index] = masked(input[id.z * ELEMENTS + index], index, id.z);
}

@compute @workgroup_size(64)
fn forward_eval(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    output[id.z * ELEMENTS + index] = input[id.z * ELEMENTS + index];
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    grad_input[id.z * ELEMENTS + index] = masked(grad_output[id.z * ELEMENTS + index], index, id.z);
}
