// The device's peak rates, against which `shadernet bench` compares its times. No network's plan uses these.
//   multiply_add  eight independent chains x · a + b in every invocation: arithmetic only
//   copy          memory traffic only
//   add_one       one workgroup that needs the result of the previous launch: launch overhead only

override ELEMENTS: u32; // vec4s to copy
override ROUNDS: u32; // of eight multiply-adds in every chain

@group(0) @binding(0) var<storage, read> factors: array<f32>; // a, b
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // results of the first 64 invocations
@group(0) @binding(2) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> duplicate: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> count: array<u32>;

fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}

@compute @workgroup_size(64)
fn multiply_add(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    let a = factors[0];
    let b = vec4(factors[1]);
    var x = f32(index) + vec4(0.0, 1.0, 2.0, 3.0);
    var y = f32(index) + vec4(4.0, 5.0, 6.0, 7.0);
    for (var round = 0u; round < ROUNDS; round++) {
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
        x = x * a + b;
        y = y * a + b;
    }
    let sum = dot(x + y, vec4(1.0));
    // The sum is never negative. A compiler doesn't know that, so it can't eliminate the other invocations' work.
    if (index < 64u || sum < 0.0) {
        sums[index % 64u] = sum;
    }
}

@compute @workgroup_size(64)
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = linear_index(id, groups);
    if (index < ELEMENTS) {
        duplicate[index] = original[index];
    }
}

@compute @workgroup_size(64)
fn add_one(@builtin(local_invocation_index) local: u32) {
    count[local] += 1u;
}
