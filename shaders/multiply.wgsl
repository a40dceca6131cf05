// output = input1 · input2, elementwise; one of them may be a gate, one value per map:
//   output[n,c,y,x] = input1[n,c,y,x] · input2[n,c]

override ELEMENTS: u32; // vec4s of the output per replica
override MAP: u32; // pixels per map
override GATE1: bool; // input1 is the gate
override GATE2: bool;
override SECOND: bool = false; // backward: compute the gradient of input2

@group(0) @binding(0) var<storage, read> input1: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> input2: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> grad_input: array<vec4<f32>>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

fn first(at: u32) -> vec4<f32> {
    return input1[select(at, at / MAP, GATE1)];
}

fn second(at: u32) -> vec4<f32> {
    return input2[select(at, at / MAP, GATE2)];
}

// A replica's ELEMENTS are whole maps, so `at / MAP` works across replicas too.
@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index >= ELEMENTS) {
        return;
    }
    let at = id.z * ELEMENTS + index;
    output[at] = first(at) * second(at);
}

// The gradient of one input is that of the output times the other input; a gate's is the sum over its map.
@compute @workgroup_size(64)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    let gate = select(GATE1, GATE2, SECOND);
    let pixels = select(1u, MAP, gate);
    if (index >= ELEMENTS / pixels) {
        return;
    }
    let to = id.z * (ELEMENTS / pixels) + index;
    var sum = vec4(0.0);
    for (var pixel = 0u; pixel < pixels; pixel++) {
        let at = to * pixels + pixel;
        if (SECOND) {
            sum += grad_output[at] * first(at);
        } else {
            sum += grad_output[at] * second(at);
        }
    }
    grad_input[to] = sum;
}
