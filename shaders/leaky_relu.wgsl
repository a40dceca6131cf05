// output = max(input, 0) + NEGATIVE_SLOPE · min(input, 0). The derivative at 0 is NEGATIVE_SLOPE, as in PyTorch.
// The output has the sign of the input, so the backward pass needs only the output.

override ELEMENTS: u32; // vec4s of one replica
override NEGATIVE_SLOPE: f32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let value = input[id.z * ELEMENTS + index];
    output[id.z * ELEMENTS + index] = select(NEGATIVE_SLOPE * value, value, value > vec4(0.0));
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let upstream = grad_output[id.z * ELEMENTS + index];
    let positive = output[id.z * ELEMENTS + index] > vec4(0.0);
    grad_input[id.z * ELEMENTS + index] = select(NEGATIVE_SLOPE * upstream, upstream, positive);
}
