// Depthwise 3-D convolution on a GPU: what depthwise_numba.py computes on the CPU.
//
// Filters of 1 or 3 x 3 x 3 at stride 1, nearly all the work of a network, run in columns: a thread walks along z through
// ROWS neighbouring rows and reads each plane once for the KZ outputs that it reaches. All else has one plain kernel each.
// Positions within one volume take 32 bits, those of volumes 64. Names: m = sample x channels + channel; padding k / 2.
// common.cu stands before this file.

constexpr int ROWS = 2;

struct Shape {
    int z, y, x;
};

__device__ __forceinline__ int voxels(Shape s) { return s.z * s.y * s.x; }
__device__ __forceinline__ int blocks_for(int items) { return (items + THREADS - 1) / THREADS; }

// The column of a thread: rows y to y + ROWS - 1 at x, through planes first to last - 1 of volume m.
struct Column {
    int m, first, last, y, x;
    bool any;         // false for the threads that are left over
    unsigned inside;  // bit 3 i + j: whether voxel (y - 1 + i, x - 1 + j) lies within the plane
    int corner;       // place of (y - 1, x - 1) in a plane
};

// Blocks are numbered by volume, then chunk of ``depth`` planes, then tile of THREADS columns.
__device__ __forceinline__ Column column(Shape s, int depth) {
    const int columns = (s.y + ROWS - 1) / ROWS * s.x, tiles = blocks_for(columns), chunks = (s.z + depth - 1) / depth;
    const int tile = blockIdx.x % tiles, chunk = blockIdx.x / tiles % chunks, q = tile * THREADS + (int)threadIdx.x;
    Column c;
    c.m = blockIdx.x / tiles / chunks;
    c.first = chunk * depth;
    c.last = c.first + depth < s.z ? c.first + depth : s.z;
    c.any = q < columns;
    c.y = q / s.x * ROWS;
    c.x = q % s.x;
    c.corner = (c.y - 1) * s.x + c.x - 1;
    c.inside = 0;
#pragma unroll
    for (int i = 0; i < ROWS + 2; ++i)
#pragma unroll
        for (int j = 0; j < 3; ++j)
            if (c.any && (unsigned)(c.y - 1 + i) < (unsigned)s.y && (unsigned)(c.x - 1 + j) < (unsigned)s.x)
                c.inside |= 1u << (3 * i + j);
    return c;
}

// What the column's outputs need of one plane; 0 beyond its edges.
template <typename T>
__device__ __forceinline__ void read_plane(const T* __restrict__ plane, const Column& c, int width, float v[ROWS + 2][3]) {
#pragma unroll
    for (int i = 0; i < ROWS + 2; ++i)
#pragma unroll
        for (int j = 0; j < 3; ++j) v[i][j] = c.inside >> (3 * i + j) & 1u ? widen(plane[c.corner + i * width + j]) : 0.0f;
}

// out = correlation of x with the filters, plus bias, at stride 1; of filters turned round if flip is set, which gives the
// gradient of x from that of the output.
//
// x, out: (M, z, y, x). weight: (channels, KZ, 3, 3). bias: (channels) or null.
template <typename T, int KZ>
__global__ void __launch_bounds__(THREADS)
depthwise_columns(int nz, int ny, int nx, int depth, int channels, int flip, const T* __restrict__ x,
                  const float* __restrict__ weight, const float* __restrict__ bias, T* __restrict__ out) {
    const Shape s = {nz, ny, nx};
    const Column c = column(s, depth);
    if (!c.any) return;
    const int channel = c.m % channels, area = ny * nx, reach = KZ / 2;
    const T* __restrict__ volume = x + (long long)c.m * voxels(s);
    T* __restrict__ target = out + (long long)c.m * voxels(s) + c.y * nx + c.x;
    const float start = bias ? bias[channel] : 0.0f;
    float w[9 * KZ], sum[KZ][ROWS];  // sum[j] is of output plane z - reach + j
#pragma unroll
    for (int i = 0; i < 9 * KZ; ++i) w[i] = weight[channel * 9 * KZ + (flip ? 9 * KZ - 1 - i : i)];
#pragma unroll
    for (int i = 0; i < KZ * ROWS; ++i) sum[i / ROWS][i % ROWS] = start;
    for (int z = c.first - reach; z < c.last + reach; ++z) {
        if ((unsigned)z < (unsigned)nz) {
            float v[ROWS + 2][3];
            read_plane(volume + z * area, c, nx, v);
#pragma unroll
            for (int j = 0; j < KZ; ++j)
#pragma unroll
                for (int r = 0; r < ROWS; ++r)
#pragma unroll
                    for (int t = 0; t < 9; ++t) sum[j][r] += w[9 * (KZ - 1 - j) + t] * v[r + t / 3][t % 3];
        }
        if (z - reach >= c.first) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
                if (c.y + r < ny) narrow(sum[0][r], target[(z - reach) * area + r * nx]);
        }
#pragma unroll
        for (int j = 0; j < KZ; ++j)
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sum[j][r] = j < KZ - 1 ? sum[j + 1][r] : start;
    }
}

// Gradients of filter and bias at stride 1, one line of sums per block; the caller adds up the blocks of a volume.
//
// x, gradient: (M, z, y, x). partial: (blocks, 9 KZ + 1), the filter's, then the bias's.
// Dynamic shared memory: scratch(9 KZ + 1) floats.
template <typename T, int KZ>
__global__ void __launch_bounds__(THREADS)
depthwise_weight_columns(int nz, int ny, int nx, int depth, const T* __restrict__ x, const T* __restrict__ gradient,
                         float* __restrict__ partial) {
    const Shape s = {nz, ny, nx};
    const Column c = column(s, depth);
    const int area = ny * nx, reach = KZ / 2;
    const T* __restrict__ volume = x + (long long)c.m * voxels(s);
    const T* __restrict__ slopes = gradient + (long long)c.m * voxels(s) + c.y * nx + c.x;
    float sums[9 * KZ + 1], g[KZ][ROWS];  // g[j] is the gradient of output plane z - reach + j; 0 outside the chunk
#pragma unroll
    for (int i = 0; i < 9 * KZ + 1; ++i) sums[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < KZ * ROWS; ++i) g[i / ROWS][i % ROWS] = 0.0f;
    for (int z = c.first - reach; c.any && z < c.last + reach; ++z) {
        const int ahead = z + reach;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int j = 0; j < KZ - 1; ++j) g[j][r] = g[j + 1][r];
            const bool inside = ahead >= c.first && ahead < c.last && c.y + r < ny;
            g[KZ - 1][r] = inside ? widen(slopes[ahead * area + r * nx]) : 0.0f;
            sums[9 * KZ] += g[KZ - 1][r];
        }
        if ((unsigned)z >= (unsigned)nz) continue;
        float v[ROWS + 2][3];
        read_plane(volume + z * area, c, nx, v);
#pragma unroll
        for (int j = 0; j < KZ; ++j)
#pragma unroll
            for (int t = 0; t < 9; ++t)
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[9 * (KZ - 1 - j) + t] += g[j][r] * v[r + t / 3][t % 3];
    }
    const float* totals = block_sums(sums, sums_in_block);
    if (threadIdx.x < 9 * KZ + 1) partial[(long long)blockIdx.x * (9 * KZ + 1) + threadIdx.x] = totals[threadIdx.x];
}

// Volume and voxel of this thread, one thread per voxel of (M, shape); false for the threads that are left over.
__device__ __forceinline__ bool voxel(Shape s, int& m, Shape& at) {
    const int tiles = blocks_for(voxels(s)), q = (int)(blockIdx.x % tiles) * THREADS + (int)threadIdx.x;
    m = blockIdx.x / tiles;
    at = {q / (s.y * s.x), q / s.x % s.y, q % s.x};
    return q < voxels(s);
}

// out = correlation of x with the filters, plus bias: any odd filter, any stride.
//
// x: (M, in). weight: (channels, k). out: (M, ceil(in / stride)).
template <typename T>
__global__ void __launch_bounds__(THREADS)
depthwise_any(int in_z, int in_y, int in_x, int out_z, int out_y, int out_x, int kz, int ky, int kx, int sz, int sy, int sx,
              int channels, const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
              T* __restrict__ out) {
    const Shape in = {in_z, in_y, in_x}, size = {out_z, out_y, out_x};
    int m;
    Shape at;
    if (!voxel(size, m, at)) return;
    const T* __restrict__ volume = x + (long long)m * voxels(in);
    const float* __restrict__ filter = weight + m % channels * (kz * ky * kx);
    float sum = bias[m % channels];
    for (int a = 0; a < kz; ++a) {
        const int z = at.z * sz + a - kz / 2;
        if ((unsigned)z >= (unsigned)in.z) continue;
        for (int b = 0; b < ky; ++b) {
            const int y = at.y * sy + b - ky / 2;
            if ((unsigned)y >= (unsigned)in.y) continue;
            for (int c = 0; c < kx; ++c) {
                const int i = at.x * sx + c - kx / 2;
                if ((unsigned)i < (unsigned)in.x) sum += filter[(a * ky + b) * kx + c] * widen(volume[(z * in.y + y) * in.x + i]);
            }
        }
    }
    narrow(sum, out[(long long)m * voxels(size) + (at.z * size.y + at.y) * size.x + at.x]);
}

// Gradient of x, gathered: any odd filter, any stride. Tap a of output o reads voxel i = o stride + a - k / 2, so those of
// voxel i are every stride-th tap, and their outputs follow each other backwards.
//
// gradient: (M, out). weight: (channels, k). grad_x: (M, in).
template <typename T>
__global__ void __launch_bounds__(THREADS)
depthwise_input_any(int in_z, int in_y, int in_x, int out_z, int out_y, int out_x, int kz, int ky, int kx, int sz, int sy,
                    int sx, int channels, const T* __restrict__ gradient, const float* __restrict__ weight,
                    T* __restrict__ grad_x) {
    const Shape in = {in_z, in_y, in_x}, size = {out_z, out_y, out_x};
    int m;
    Shape at;
    if (!voxel(in, m, at)) return;
    const T* __restrict__ slopes = gradient + (long long)m * voxels(size);
    const float* __restrict__ filter = weight + m % channels * (kz * ky * kx);
    const Shape from = {at.z + kz / 2, at.y + ky / 2, at.x + kx / 2};
    float sum = 0.0f;
    for (int a = from.z % sz, z = from.z / sz; a < kz && z >= 0; a += sz, --z) {
        if (z >= size.z) continue;
        for (int b = from.y % sy, y = from.y / sy; b < ky && y >= 0; b += sy, --y) {
            if (y >= size.y) continue;
            for (int c = from.x % sx, i = from.x / sx; c < kx && i >= 0; c += sx, --i)
                if (i < size.x) sum += filter[(a * ky + b) * kx + c] * widen(slopes[(z * size.y + y) * size.x + i]);
        }
    }
    narrow(sum, grad_x[(long long)m * voxels(in) + (at.z * in.y + at.y) * in.x + at.x]);
}

// Gradients of filter and bias: any odd filter, any stride. A block takes one row of the filter, three taps at most, over
// ``share`` voxels of the output; the first row's also sums the gradient.
//
// Blocks are numbered by volume, then part of its voxels, then group of taps (kz, ky, ceil(kx / 3)).
// x: (M, in). gradient: (M, out). partial: (M, parts, kz ky kx + 1). Dynamic shared memory: scratch(4) floats.
template <typename T>
__global__ void __launch_bounds__(THREADS)
depthwise_weight_any(int in_z, int in_y, int in_x, int out_z, int out_y, int out_x, int kz, int ky, int kx, int sz, int sy,
                     int sx, int share, const T* __restrict__ x, const T* __restrict__ gradient, float* __restrict__ partial) {
    const Shape in = {in_z, in_y, in_x}, size = {out_z, out_y, out_x};
    const int count = voxels(size), parts = (count + share - 1) / share, thirds = (kx + 2) / 3, groups = kz * ky * thirds;
    const int group = blockIdx.x % groups, line = blockIdx.x / groups, part = line % parts, m = line / parts;
    const int row = group / thirds, a = row / ky, b = row % ky, c = group % thirds * 3;
    const T* __restrict__ volume = x + (long long)m * voxels(in);
    const T* __restrict__ slopes = gradient + (long long)m * count;
    const int end = count - part * share < share ? count : (part + 1) * share;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int q = part * share + (int)threadIdx.x; q < end; q += THREADS) {
        const float g = widen(slopes[q]);
        sums[3] += g;
        const int z = q / (size.y * size.x) * sz + a - kz / 2, y = q / size.x % size.y * sy + b - ky / 2;
        if ((unsigned)z >= (unsigned)in.z || (unsigned)y >= (unsigned)in.y) continue;
        const int first = q % size.x * sx + c - kx / 2;
#pragma unroll
        for (int j = 0; j < 3; ++j)
            if ((unsigned)(first + j) < (unsigned)in.x) sums[j] += g * widen(volume[(z * in.y + y) * in.x + first + j]);
    }
    const float* totals = block_sums(sums, sums_in_block);
    float* __restrict__ own = partial + (long long)line * (kz * ky * kx + 1);
    if (threadIdx.x < 3 && c + (int)threadIdx.x < kx) own[row * kx + c + threadIdx.x] = totals[threadIdx.x];
    if (threadIdx.x == 3 && group == 0) own[kz * ky * kx] = totals[3];
}
