// max(x, 0)². Names are the wiring: `input` is the previous layer's output, `grad_output` comes from the next layer. A vec4
// holds the same value of four images; `id.z` is the number of the network when several train side by side.
override ELEMENTS: u32; // vec4s of one network

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<vec4<f32>>;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.x + id.y * groups.x * 64u;
    if (index < ELEMENTS) {
        let positive = max(input[id.z * ELEMENTS + index], vec4(0.0));
        output[id.z * ELEMENTS + index] = positive * positive;
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.x + id.y * groups.x * 64u;
    if (index < ELEMENTS) {
        let positive = max(input[id.z * ELEMENTS + index], vec4(0.0));
        grad_input[id.z * ELEMENTS + index] = 2.0 * positive * grad_output[id.z * ELEMENTS + index];
    }
}
