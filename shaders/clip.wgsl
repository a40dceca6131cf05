// The factor by which each replica's gradient is shortened to CLIP_NORM, as by PyTorch's clip_grad_norm_:
//   factor = min(1, CLIP_NORM / (norm + 1e-6)), norm = √Σ gradient²;  1 where CLIP_NORM is 0
// `squares` makes a sum for each workgroup, `factor` adds them up. The optimizer multiplies.

override ELEMENTS: u32; // of a row of `grads`
override PARTS: u32; // rows of `grads`, whose sum is the gradient
override TRAINED: u32; // parameters of a replica
override GROUPS: u32; // workgroups of `squares` for a replica
// Places in `state`, of settings among those of a replica.
override FIRST_SETTING: u32; // of the first replica
override SETTINGS: u32; // of a replica
override CLIP_NORM: u32;
override CLIP_FACTOR: u32;

@group(0) @binding(0) var<storage, read> grads: array<f32>; // [part, element]
// per parameter: its element of the first replica, and the distance to that of the next
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> squares_sums: array<f32>; // [replica, group]
// words about the step, the channels and the classes, then SETTINGS for each replica: src/state.rs
@group(0) @binding(3) var<storage, read_write> state: array<u32>;

var<workgroup> tree: array<f32, 64>;

// Leaves the sum of the tree in its first place.
fn sum_tree(local: u32) {
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
        }
    }
}

@compute @workgroup_size(64)
fn squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let number = group.x + group.y * groups.x;
    var total = 0.0;
    for (var index = number * 64u + local; index < TRAINED; index += GROUPS * 64u) {
        let element = places[index].x + group.z * places[index].y;
        var sum = grads[element];
        for (var part = 1u; part < PARTS; part++) {
            sum += grads[part * ELEMENTS + element];
        }
        total += sum * sum;
    }
    tree[local] = total;
    sum_tree(local);
    if (local == 0u && number < GROUPS) {
        squares_sums[group.z * GROUPS + number] = tree[0];
    }
}

// One workgroup per replica.
@compute @workgroup_size(64)
fn factor(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var total = 0.0;
    for (var index = local; index < GROUPS; index += 64u) {
        total += squares_sums[group.z * GROUPS + index];
    }
    tree[local] = total;
    sum_tree(local);
    if (local == 0u) {
        let settings = FIRST_SETTING + group.z * SETTINGS;
        let limit = bitcast<f32>(state[settings + CLIP_NORM]);
        let factor = select(1.0, min(1.0, limit / (sqrt(tree[0]) + 1e-6)), limit > 0.0);
        state[settings + CLIP_FACTOR] = bitcast<u32>(factor);
    }
}
