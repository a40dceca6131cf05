// Group normalisation of each image n over the channels c of group G and their pixels p, M values in all:
//   mean = Σ x / M;  var = Σ (x − mean)² / M;  inv_std = 1/√(var + EPS);  x̂ = (x − mean) · inv_std
//   output = x̂ · weight[c] + bias[c]
//   grad_bias[c] = Σ n,p g;  grad_weight[c] = Σ n,p g·x̂
//   grad_input = inv_std · (weight[c]·g − Σ c,p weight[c]·g / M − x̂ · Σ c,p weight[c]·g·x̂ / M)
// where g is grad_output. Sums of x are taken relative to the group's first value, so a large mean causes no
// cancellation. A workgroup handles one map of four images; for group-wide values, each workgroup adds up the sums of
// the group's maps itself. Nothing passes between images, so the lanes past the batch, which have no gradient, get none.

override QUADS: u32;
override CHANNELS: u32;
override PIXELS: u32;
override GROUPS: u32;
override EPS: f32;

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec4<f32>>; // [replica, quad, channel, 2]
@group(0) @binding(5) var<storage, read_write> moments: array<vec4<f32>>; // [replica, quad, group, mean and inv_std]
@group(0) @binding(6) var<storage, read> grad_output: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> grad_input: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(9) var<storage, read_write> grad_bias: array<f32>;
@group(0) @binding(10) var<storage, read_write> grad_sums: array<vec4<f32>>; // [replica, quad, channel, 2]

override MAPS: u32 = QUADS * CHANNELS; // per replica
override GROUP_CHANNELS: u32 = CHANNELS / GROUPS;
override COUNT: f32 = f32(GROUP_CHANNELS * PIXELS);

var<workgroup> tree: array<vec4<f32>, 128>;

// Adds up the pairs of 64 invocations: the sums are then in tree[0] and tree[64].
fn add_up(local: u32, first: vec4<f32>, second: vec4<f32>) {
    tree[local] = first;
    tree[local + 64u] = second;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            tree[local] += tree[local + half];
            tree[local + 64u] += tree[local + half + 64u];
        }
    }
    workgroupBarrier();
}

// The first map of a map's group, both counted over all replicas.
fn first_map(map: u32) -> u32 {
    return map - map % GROUP_CHANNELS;
}

// Σ d and Σ d² of a map, d being the difference from the group's first value.
@compute @workgroup_size(64)
fn map_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let index = group.x + group.y * groups.x;
    if (index >= MAPS) {
        return;
    }
    let map = group.z * MAPS + index;
    let shift = input[first_map(map) * PIXELS];
    var sum = vec4(0.0);
    var squares = vec4(0.0);
    for (var pixel = local; pixel < PIXELS; pixel += 64u) {
        let distance = input[map * PIXELS + pixel] - shift;
        sum += distance;
        squares += distance * distance;
    }
    add_up(local, sum, squares);
    if (local == 0u) {
        sums[2u * map] = tree[0];
        sums[2u * map + 1u] = tree[64];
    }
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let index = group.x + group.y * groups.x;
    if (index >= MAPS) {
        return;
    }
    let map = group.z * MAPS + index;
    let first = first_map(map);
    var sum = vec4(0.0);
    var squares = vec4(0.0);
    for (var other = first + local; other < first + GROUP_CHANNELS; other += 64u) {
        sum += sums[2u * other];
        squares += sums[2u * other + 1u];
    }
    add_up(local, sum, squares);
    let from_first = tree[0] / COUNT;
    let mean = input[first * PIXELS] + from_first;
    let variance = max(tree[64] / COUNT - from_first * from_first, vec4(0.0));
    let inv_std = inverseSqrt(variance + EPS);
    if (local == 0u && map == first) {
        moments[2u * (map / GROUP_CHANNELS)] = mean;
        moments[2u * (map / GROUP_CHANNELS) + 1u] = inv_std;
    }
    let param = group.z * CHANNELS + index % CHANNELS;
    let scale = inv_std * weight[param];
    for (var pixel = local; pixel < PIXELS; pixel += 64u) {
        let at = map * PIXELS + pixel;
        output[at] = (input[at] - mean) * scale + bias[param];
    }
}

// Σ g and Σ g·x̂ of a map.
@compute @workgroup_size(64)
fn grad_map_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let index = group.x + group.y * groups.x;
    if (index >= MAPS) {
        return;
    }
    let map = group.z * MAPS + index;
    let mean = moments[2u * (map / GROUP_CHANNELS)];
    let inv_std = moments[2u * (map / GROUP_CHANNELS) + 1u];
    var sum = vec4(0.0);
    var products = vec4(0.0);
    for (var pixel = local; pixel < PIXELS; pixel += 64u) {
        let upstream = grad_output[map * PIXELS + pixel];
        sum += upstream;
        products += upstream * ((input[map * PIXELS + pixel] - mean) * inv_std);
    }
    add_up(local, sum, products);
    if (local == 0u) {
        grad_sums[2u * map] = tree[0];
        grad_sums[2u * map + 1u] = tree[64];
    }
}

// One workgroup adds up the maps of a channel.
@compute @workgroup_size(64)
fn grad_params(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let channel = group.x + group.y * groups.x;
    if (channel >= CHANNELS) {
        return;
    }
    var sum = vec4(0.0);
    var products = vec4(0.0);
    for (var quad = local; quad < QUADS; quad += 64u) {
        let map = group.z * MAPS + quad * CHANNELS + channel;
        sum += grad_sums[2u * map];
        products += grad_sums[2u * map + 1u];
    }
    add_up(local, sum, products);
    if (local == 0u) {
        grad_bias[group.z * CHANNELS + channel] = dot(tree[0], vec4(1.0));
        grad_weight[group.z * CHANNELS + channel] = dot(tree[64], vec4(1.0));
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let index = group.x + group.y * groups.x;
    if (index >= MAPS) {
        return;
    }
    let map = group.z * MAPS + index;
    let first = first_map(map);
    let params = group.z * CHANNELS + first_map(index) % CHANNELS;
    var sum = vec4(0.0);
    var products = vec4(0.0);
    for (var other = local; other < GROUP_CHANNELS; other += 64u) {
        sum += weight[params + other] * grad_sums[2u * (first + other)];
        products += weight[params + other] * grad_sums[2u * (first + other) + 1u];
    }
    add_up(local, sum, products);
    let mean_grad = tree[0] / COUNT;
    let mean_product = tree[64] / COUNT;
    let mean = moments[2u * (map / GROUP_CHANNELS)];
    let inv_std = moments[2u * (map / GROUP_CHANNELS) + 1u];
    let factor = weight[params + map - first];
    for (var pixel = local; pixel < PIXELS; pixel += 64u) {
        let at = map * PIXELS + pixel;
        let normalised = (input[at] - mean) * inv_std;
        grad_input[at] = inv_std * (factor * grad_output[at] - mean_grad - normalised * mean_product);
    }
}
