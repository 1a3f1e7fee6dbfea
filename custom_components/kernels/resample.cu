// One-pass resampling on a GPU: what resample_numba.py and spline_numba.py compute on the CPU, and say why.
//
// No headers: NVRTC compiles this file as it is. The tests compile it for the host, with CUDA's keywords defined away.
// Positions within one volume take 32 bits, those of volumes 64.

// Numbers of custom_components.kernels.boundary.BOUNDARY_MODES.
enum Mode { CONSTANT, REFLECT, MIRROR, NEAREST, WRAP };

constexpr int FILTER_REACH = 10;       // as REACH of spline_numba.py
constexpr float NEAREST_REACH = 8.0f;  // as in resample_numba.py

struct Shape {
    int z, y, x;
};

__device__ __forceinline__ long long voxels(Shape s) { return (long long)s.z * s.y * s.x; }

// What all voxels of an output row share.
struct Row {
    float base[3], along[3];  // coordinates of its first voxel without displacement, and their change from voxel to voxel
    int first[2];             // along z and y, the first of the four control points that reach it
    float weights[2][4];
    // Output index x lies at position whole + fraction + x (rate + rest) of the lattice.
    float whole, fraction, rate, rest;
};

__shared__ Row row_in_block;
extern __shared__ float line_in_block[];  // 3 x l_x control points along the row

__device__ __forceinline__ void spline_weights(float u, float w[4]) {
    const float v = 1.0f - u;
    w[0] = v * v * v * (1.0f / 6.0f);
    w[1] = 2.0f / 3.0f - u * u * (1.0f - 0.5f * u);
    w[2] = 2.0f / 3.0f - v * v * (1.0f - 0.5f * v);
    w[3] = u * u * u * (1.0f / 6.0f);
}

// Phase 1: the numbers of the row, by three threads, as double precision is slow on many GPUs.
__device__ void begin_row(int tid, int threads, int z, int y, const double* __restrict__ numbers, Shape points, Row& row) {
    for (int a = tid; a < 3; a += threads) {
        const double* __restrict__ matrix = numbers + 4 * a;
        row.base[a] = (float)(matrix[3] + matrix[0] * z + matrix[1] * y);
        row.along[a] = (float)matrix[2];
        const double origin = numbers[12 + a], step = numbers[15 + a];
        if (a == 2) {
            const double whole = floor(origin), rate = 1.0 / step;
            row.whole = (float)whole;
            row.fraction = (float)(origin - whole);
            row.rate = (float)rate;
            row.rest = (float)(rate - (double)row.rate);
        } else {
            const double at = origin + (a == 0 ? z : y) / step;
            const int last = (a == 0 ? points.z : points.y) - 4, k = (int)at;
            row.first[a] = k < last ? k : last;
            spline_weights((float)(at - row.first[a]), row.weights[a]);
        }
    }
}

// Phase 2: control points along the row, as its z and y combine them.
__device__ void combine_points(int tid, int threads, const float* __restrict__ lattice, Shape points, const Row& row,
                               float* line) {
    const float *wz = row.weights[0], *wy = row.weights[1];
    for (int i = tid; i < 3 * points.x; i += threads) {
        const int a = i / points.x, step = points.x;
        const float* __restrict__ p = lattice + ((a * points.z + row.first[0]) * points.y + row.first[1]) * step + i - a * step;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 4; ++j, p += points.y * step)
            sum += wz[j] * (__ldg(p) * wy[0] + __ldg(p + step) * wy[1] + __ldg(p + 2 * step) * wy[2] + __ldg(p + 3 * step) * wy[3]);
        line[i] = sum;
    }
}

// Adds the displacement at output index x. Large numbers cancel within an fma, before rounding, so that single precision
// suffices. A place just outside its interval does no harm, as neighbouring cubics meet smoothly; a control point beyond
// the last would.
__device__ __forceinline__ void displace(int x, const Row& row, const float* line, int length, float c[3]) {
    const float at = (float)x, last = (float)(length - 4) - row.whole;
    const float interval = fminf(floorf(fmaf(at, row.rate, row.fraction)), last);
    float w[4];
    spline_weights(fmaf(at, row.rest, fmaf(at, row.rate, -interval)) + row.fraction, w);
    line += (int)(row.whole + interval);
    for (int a = 0; a < 3; ++a, line += length) c[a] += line[0] * w[0] + line[1] * w[1] + line[2] * w[2] + line[3] * w[3];
}

// A coordinate outside [0, n - 1] to the place that it reads; NaN stays NaN.
__device__ __forceinline__ float boundary(float v, int n, int mode) {
    const float last = (float)(n - 1);
    if ((v >= 0.0f && v <= last) || v != v) return v;
    if (n == 1) return 0.0f;
    float low = 0.0f, high = last;
    if (mode == REFLECT) {
        const float period = 2.0f * (float)n;
        v += 0.5f;
        v = fmaf(-period, floorf(v / period), v);
        v = (v > (float)n ? period - v : v) - 0.5f;
        low -= 0.5f;
        high += 0.5f;
    } else if (mode == MIRROR) {
        v = fmaf(-2.0f * last, floorf(v / (2.0f * last)), v);
        v = v > last ? 2.0f * last - v : v;
    } else if (mode == NEAREST) {
        low -= NEAREST_REACH;
        high += NEAREST_REACH;
    } else if (v < 0.0f) {  // SciPy's rule on the seam itself: from below the last voxel, from above the first
        v = fmaf(last, floorf(-v / last) + 1.0f, v);
    } else {
        v = fmaf(-last, floorf(v / last), v);
    }
    // The remainder of a huge coordinate is lost to rounding: what it reads must still lie within the volume.
    return v != v ? v : fminf(fmaxf(v, low), high);
}

// Lower neighbour along an axis and the weight of the upper one. The last voxel is reached with weight 1 from the one
// before it, so that no neighbour lies outside; along an axis of one voxel the step between them is 0.
__device__ __forceinline__ int lower(float c, int n, float& weight) {
    c = fminf(fmaxf(c, 0.0f), (float)(n - 1));
    const int i = n > 1 && (int)c > n - 2 ? n - 2 : (int)c;
    weight = c - (float)i;
    return i;
}

__device__ __forceinline__ float linear(const float* __restrict__ p, Shape step, float u, float v, float w) {
    const float g = 1.0f - v, h = 1.0f - u;
    const float *py = p + step.y, *pz = p + step.z, *pzy = pz + step.y;
    const float near = (__ldg(p) * g + __ldg(py) * v) * h + (__ldg(pz) * g + __ldg(pzy) * v) * u;
    const int x = step.x;
    const float far = (__ldg(p + x) * g + __ldg(py + x) * v) * h + (__ldg(pz + x) * g + __ldg(pzy + x) * v) * u;
    return near * (1.0f - w) + far * w;
}

__device__ __forceinline__ float cubic(const float* __restrict__ p, Shape step, const float wz[4], const float wy[4],
                                       const float wx[4]) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i, p += step.z) {
        float plane = 0.0f;
        const float* __restrict__ q = p;
#pragma unroll
        for (int j = 0; j < 4; ++j, q += step.y)
            plane += wy[j] * (__ldg(q) * wx[0] + __ldg(q + 1) * wx[1] + __ldg(q + 2) * wx[2] + __ldg(q + 3) * wx[3]);
        total += wz[i] * plane;
    }
    return total;
}

// Elements from one voxel to the next; 0 along an axis of one voxel, which is its own neighbour.
__device__ __forceinline__ Shape steps(Shape s) { return {s.z > 1 ? s.y * s.x : 0, s.y > 1 ? s.x : 0, s.x > 1 ? 1 : 0}; }

// Phase 3: the voxels of the row. The pointers are those of the first channel, the outputs' those of the row.
template <int ORDER, typename label_t>
__device__ void read_row(int tid, int threads, const Row& row, const float* line, int length, Shape out, Shape in, Shape pad,
                         int mode, const float* __restrict__ image, float* __restrict__ image_out, int channels,
                         float image_value, const label_t* __restrict__ label, label_t* __restrict__ label_out,
                         int label_channels, label_t label_value) {
    const Shape step = steps(in), stored = {in.z + 2 * pad.z, in.y + 2 * pad.y, in.x + 2 * pad.x};
    const Shape stored_step = steps(stored);
    const long long next_out = voxels(out), next_label = voxels(in), next_image = voxels(stored);
    for (int x = tid; x < out.x; x += threads) {
        float c[3];
        for (int a = 0; a < 3; ++a) c[a] = fmaf(row.along[a], (float)x, row.base[a]);
        if (length > 0) displace(x, row, line, length, c);
        bool inside;  // NaN compares false: it is outside in every mode
        if (mode == CONSTANT) {
            inside = c[0] >= 0.0f && c[0] <= (float)(in.z - 1) && c[1] >= 0.0f && c[1] <= (float)(in.y - 1) && c[2] >= 0.0f &&
                     c[2] <= (float)(in.x - 1);
        } else {
            c[0] = boundary(c[0], in.z, mode), c[1] = boundary(c[1], in.y, mode), c[2] = boundary(c[2], in.x, mode);
            inside = c[0] == c[0] && c[1] == c[1] && c[2] == c[2];
        }
        if (!inside) {
            for (int k = 0; k < label_channels; ++k) label_out[k * next_out + x] = label_value;
            for (int k = 0; k < channels; ++k) image_out[k * next_out + x] = image_value;
            continue;
        }
        float u, v, w;
        const int iz = lower(c[0], in.z, u), iy = lower(c[1], in.y, v), ix = lower(c[2], in.x, w);
        const int base = iz * step.z + iy * step.y + ix;
        const int nearest = base + (u >= 0.5f ? step.z : 0) + (v >= 0.5f ? step.y : 0) + (w >= 0.5f ? step.x : 0);
        for (int k = 0; k < label_channels; ++k) label_out[k * next_out + x] = __ldg(label + k * next_label + nearest);
        if (ORDER == 1) {
            for (int k = 0; k < channels; ++k)
                image_out[k * next_out + x] = linear(image + k * next_image + base, step, u, v, w);
        } else if (channels > 0) {
            const float fz = floorf(c[0]), fy = floorf(c[1]), fx = floorf(c[2]);
            float wz[4], wy[4], wx[4];
            spline_weights(c[0] - fz, wz), spline_weights(c[1] - fy, wy), spline_weights(c[2] - fx, wx);
            const int first = ((int)fz + pad.z - 1) * stored_step.z + ((int)fy + pad.y - 1) * stored_step.y + (int)fx + pad.x - 1;
            for (int k = 0; k < channels; ++k)
                image_out[k * next_out + x] = cubic(image + k * next_image + first, stored_step, wz, wy, wx);
        }
    }
}

// One block per output row (b, z, y): one launch reads all channels of the whole batch, and coordinates stay in registers.
//
// numbers: (B, 18), matrix, origin and step of a CoordinateField. lattice: (B, 3, points), or null with points of 0.
// images: (B, C, in), or with ORDER 3 their B-spline coefficients (B, C, in + 2 pad). image_out: (B, C, out).
// labels: (B, L, in). label_out: (B, L, out). Dynamic shared memory: 3 l_x floats.
template <int ORDER, typename label_t>
__global__ void __launch_bounds__(256)
resample(int out_z, int out_y, int out_x, int in_z, int in_y, int in_x, int points_z, int points_y, int points_x, int pad_z,
         int pad_y, int pad_x, int mode, const double* __restrict__ numbers, const float* __restrict__ lattice,
         const float* __restrict__ images, float* __restrict__ image_out, int channels, float image_value,
         const label_t* __restrict__ labels, label_t* __restrict__ label_out, int label_channels, label_t label_value) {
    const Shape out = {out_z, out_y, out_x}, in = {in_z, in_y, in_x}, points = {points_z, points_y, points_x};
    const Shape pad = {pad_z, pad_y, pad_x}, stored = {in_z + 2 * pad_z, in_y + 2 * pad_y, in_x + 2 * pad_x};
    const int tid = threadIdx.x, threads = blockDim.x, rows = out_z * out_y;
    const long long b = (int)blockIdx.x / rows, row = (int)blockIdx.x % rows;
    begin_row(tid, threads, (int)row / out_y, (int)row % out_y, numbers + 18 * b, points, row_in_block);
    __syncthreads();
    if (lattice) {
        combine_points(tid, threads, lattice + 3 * voxels(points) * b, points, row_in_block, line_in_block);
        __syncthreads();
    }
    const long long image = b * channels, label = b * label_channels;
    read_row<ORDER, label_t>(tid, threads, row_in_block, line_in_block, points_x, out, in, pad, mode,
                             images + image * voxels(stored), image_out + image * voxels(out) + row * out_x, channels,
                             image_value, labels + label * voxels(in), label_out + label * voxels(out) + row * out_x,
                             label_channels, label_value);
}

// Index of the voxel that stands at i when a signal of n voxels is continued for filtering; as _map_index in spline_numba.py.
__device__ __forceinline__ int map_index(int i, int n, int mode) {
    if (n == 1) return 0;
    if (mode == NEAREST) return i < 0 ? 0 : (i < n ? i : n - 1);
    const int period = mode == REFLECT ? 2 * n : 2 * n - 2;
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : (mode == REFLECT ? period - 1 - i : period - i);
}

// Cubic B-spline coefficients along one axis, (outer, n, inner) to (outer, n + 2 pad, inner), one thread per output value.
//
// A block of (x, y) threads takes x values along inner and y along the axis, whose neighbourhoods overlap in the cache.
extern "C" __global__ void __launch_bounds__(256)
spline_filter_axis(const float* __restrict__ source, float* __restrict__ out, int n, int inner, int pad, int mode) {
    const int length = n + 2 * pad;
    const unsigned across = (inner + blockDim.x - 1) / blockDim.x, along = (length + blockDim.y - 1) / blockDim.y;
    const unsigned tile = blockIdx.x / across;
    const int x = (int)((blockIdx.x - tile * across) * blockDim.x + threadIdx.x);
    const int place = (int)(tile % along * blockDim.y + threadIdx.y), i = place - pad;
    if (x >= inner || place >= length) return;
    const long long outer = tile / along;
    const float* __restrict__ values = source + outer * n * inner + x;
    const float pole = -0.267949192431f;
    float tap = 1.73205080757f, sum = tap * __ldg(values + (long long)map_index(i, n, mode) * inner);
    if (n == 1) sum = __ldg(values);
    const bool within = i >= FILTER_REACH && i < n - FILTER_REACH;
#pragma unroll
    for (int k = 1; k <= FILTER_REACH && n > 1; ++k) {
        tap *= pole;
        const int left = within ? i - k : map_index(i - k, n, mode), right = within ? i + k : map_index(i + k, n, mode);
        sum += tap * (__ldg(values + (long long)left * inner) + __ldg(values + (long long)right * inner));
    }
    out[(outer * length + place) * inner + x] = sum;
}
