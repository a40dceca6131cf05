// Copies the channels of one input to their place in the output, or their gradients back: one launch per input, so
// there can be any number of them. An image's values are laid out [channel, row, column], so an input's are contiguous.

override QUADS: u32;
override PART: u32; // values per image in the input
override WHOLE: u32; // values per image in the output
override FIRST: u32; // where the input's values begin in the output

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
    if (index >= QUADS * PART) {
        return;
    }
    let quad = id.z * QUADS + index / PART;
    output[quad * WHOLE + FIRST + index % PART] = input[quad * PART + index % PART];
}

@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= QUADS * PART) {
        return;
    }
    let quad = id.z * QUADS + index / PART;
    grad_input[quad * PART + index % PART] = grad_output[quad * WHOLE + FIRST + index % PART];
}
